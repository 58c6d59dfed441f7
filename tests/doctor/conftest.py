# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the doctor's tests."""

import shutil
from pathlib import Path

import pytest

from coordexp_trl.doctor.check import Check


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def by_name():
    """Findings by name and status: the worst of each name."""

    def sort(checks) -> dict[str, Check]:
        order = {"ok": 0, "warn": 1, "fail": 2}
        return {check.name: check for check in sorted(checks, key=lambda check: order[check.status])}

    return sort

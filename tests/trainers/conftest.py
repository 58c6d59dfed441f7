# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the trainers' tests: a very small model, and eight pictures with different numbers of objects."""

import gc
from pathlib import Path

import pytest

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.records import DetectionRecord, read_records
from coordexp_trl.tiny import create_tiny_checkpoint

SMALL = {"hidden_size": 64, "num_layers": 2, "vision_depth": 2}


@pytest.fixture(scope="session", autouse=True)
def frozen_imports():
    """Each run collects garbage; among all that was imported that takes longer than the run itself."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights, tied head. Shared: load it, never write into it."""
    return create_tiny_checkpoint(tmp_path_factory.mktemp("trainers") / "checkpoint", seed=0, **SMALL)


@pytest.fixture(scope="session")
def untied_checkpoint(tmp_path_factory) -> Path:
    """Random weights, a head of its own."""
    return create_tiny_checkpoint(tmp_path_factory.mktemp("trainers") / "untied", tie_word_embeddings=False, **SMALL)


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> list[DetectionRecord]:
    """Eight pictures of 64 x 64 pixels with 2, 2, 1, 1, 2, 3, 1 and 3 objects."""
    file = create_shapes(
        tmp_path_factory.mktemp("trainers") / "shapes", 8, seed=1, image_size=64, min_objects=1, max_objects=3
    )
    records = read_records(file)
    assert [len(record.objects) for record in records] == [2, 2, 1, 1, 2, 3, 1, 3]
    return records

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reports as a browser shows them."""

import numpy as np
import pytest
from browser import PHONE, WIDE, show
from html_page import Page
from run_folders import write_evaluation, write_training

from coordexp_trl.evaluation.panels import COLORS
from coordexp_trl.evaluation.run_pages import write_run_report

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = write_training(write_evaluation(tmp_path_factory.mktemp("run")))
    return write_run_report(folder, folder / "report.html", image_root=folder / "images", show_progress=False).path


def area(shown, color):
    return (np.abs(shown.screen - color).max(-1) < 12).sum()


def test_a_report_is_shown_without_errors_and_requests(report, tmp_path):
    shown = show(report, tmp_path / "browser")
    assert (shown.console, shown.requests) == ([], [])
    assert shown.page.texts("h1", "h2") == Page(report).texts("h1", "h2")
    assert len(shown.page.pictures()) == len(Page(report).pictures()) > 6
    assert tuple(shown.screen[0, 0]) == (0xF6, 0xF7, 0xF9)
    for kind in ("GT", "TP", "FP", "FN", "duplicate"):
        assert area(shown, COLORS[kind]) > 100, kind  # the pictures are painted


def test_dark_and_on_a_phone(report, tmp_path):
    dark, phone = (
        show(report, tmp_path / name, size, name == "dark") for name, size in (("dark", WIDE), ("phone", PHONE))
    )
    assert tuple(dark.screen[0, 0]) == (0x14, 0x16, 0x1B)
    assert area(dark, COLORS["GT"]) > 100
    assert phone.screen.shape == (5000, 390, 3)
    assert (phone.screen[:, -4:] == (0xF6, 0xF7, 0xF9)).all()  # nothing, tables neither, is wider than the screen
    assert area(phone, COLORS["GT"]) > 100


def test_errors_and_requests_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src *\">"
    page.write_text(f"<!DOCTYPE html>{policy}<img src='http://127.0.0.1:9/a.png'><script>alert(1)</script>")
    shown = show(page, tmp_path / "browser")
    assert len(shown.console) == 1 and "Content Security Policy" in shown.console[0]
    assert shown.requests == ["http://127.0.0.1:9/a.png"]

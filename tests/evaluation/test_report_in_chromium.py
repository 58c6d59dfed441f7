# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reports as a browser shows them."""

import json
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
from html_page import Page
from PIL import Image
from run_folders import write_evaluation, write_training

from coordexp_trl.evaluation.panels import COLORS
from coordexp_trl.evaluation.run_pages import write_run_report

pytestmark = pytest.mark.chromium

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the browser's own services stay at home too
]
WIDE, PHONE = (1280, 5000), (390, 5000)


@dataclass
class Shown:
    """What a browser made of a page: its elements, a screenshot, console messages and requests of the page."""

    page: Page
    screen: np.ndarray
    console: list[str]
    requests: list[str]


def show(path, folder, size=WIDE, dark=False):
    folder.mkdir()
    files = {"--user-data-dir": "profile", "--screenshot": "screen.png", "--log-net-log": "net.json"}
    command = ["chromium", *FLAGS, *(f"{flag}={folder / name}" for flag, name in files.items())]
    command += ["--window-size={},{}".format(*size), f"--blink-settings=preferredColorScheme={int(not dark)}"]
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=120, check=True)
    (folder / "dom.html").write_bytes(done.stdout)
    events = [event.get("params", {}) for event in json.loads((folder / "net.json").read_text())["events"]]
    return Shown(
        page=Page(folder / "dom.html"),
        screen=np.asarray(Image.open(folder / "screen.png").convert("RGB"), dtype=int),
        console=[line for line in done.stderr.decode().splitlines() if ":CONSOLE:" in line],
        requests=[item["url"] for item in events if item.get("initiator", "not an origin") != "not an origin"],
    )


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

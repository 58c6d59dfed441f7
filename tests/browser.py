# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""HTML files as Chromium shows them, for tests marked `chromium`."""

import json
import subprocess
from dataclasses import dataclass

import numpy as np
from html_page import Page
from PIL import Image

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


def show(path, folder, size=WIDE, dark=False, script_ms=0):
    """Opens a file, lets its scripts go on for `script_ms` of their own time after loading, and looks."""
    folder.mkdir()
    files = {"--user-data-dir": "profile", "--screenshot": "screen.png", "--log-net-log": "net.json"}
    command = ["chromium", *FLAGS, *(f"{flag}={folder / name}" for flag, name in files.items())]
    command += ["--window-size={},{}".format(*size), f"--blink-settings=preferredColorScheme={int(not dark)}"]
    command += [f"--virtual-time-budget={script_ms}"] if script_ms else []
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=120, check=True)
    (folder / "dom.html").write_bytes(done.stdout)
    events = [event.get("params", {}) for event in json.loads((folder / "net.json").read_text())["events"]]
    return Shown(
        page=Page(folder / "dom.html"),
        screen=np.asarray(Image.open(folder / "screen.png").convert("RGB"), dtype=int),
        console=[line for line in done.stderr.decode().splitlines() if ":CONSOLE:" in line],
        requests=[item["url"] for item in events if item.get("initiator", "not an origin") != "not an origin"],
    )

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Relative links of the pages lead to files of the repository; `make docs` checks their anchors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def broken(text: str, folder: Path) -> list[str]:
    return [link for link in LINK.findall(text) if not (folder / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    assert broken(page.read_text("utf-8"), page.parent) == []


def test_a_broken_link_is_found():
    text = "[a](docs/README.md) [b](docs/none.md#x) [c](https://example.org) [d](#e) ![f](docs/images/none.png)"
    assert broken(text, ROOT) == ["docs/none.md", "docs/images/none.png"]

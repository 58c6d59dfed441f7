# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The site that `make docs` builds: all pages, as GitHub shows them, in a browser without a network."""

import html
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import show
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIG = ROOT / "tools" / "site" / "mkdocs.yml"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
# What decides how a page reads; paragraphs are left out because loose and tight lists differ in them
ELEMENTS = {"h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "th", "td", "pre", "code", "a", "img", "strong", "em"}


class ConfigLoader(yaml.SafeLoader):
    """Reads mkdocs.yml without mkdocs: what it names of Python is left out."""


ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def nav_pages(item) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(item, str):
        return [item]
    children = item.values() if isinstance(item, dict) else item
    return [page for child in children for page in nav_pages(child)]


class Content(HTMLParser):
    """Elements and words of a page in document order; of a page of the site, the article alone."""

    def __init__(self, text: str, of_site: bool):
        super().__init__()
        self.items = []
        self._shown, self._skipped, self._pre = not of_site, False, False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._shown |= tag == "article"
        self._skipped |= attributes.get("class") == "headerlink"
        # Within a block of code are the spans and anchors of highlighting; without an address, an anchor is no link
        if self._shown and not self._skipped and not self._pre and tag in ELEMENTS and (tag, "href") != ("a", None):
            self.items.append(f"<{tag}>")
        self._pre |= tag == "pre"

    def handle_endtag(self, tag):
        self._shown &= tag != "article"
        self._skipped &= tag != "a"
        self._pre &= tag != "pre"

    def handle_data(self, data):
        if self._shown and not self._skipped:
            self.items.append(data)

    def words(self) -> list[str]:
        return re.findall(r"<[a-z]+\d?>|\w+|[^\w\s]", "".join(self.items))


def github_anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built without a warning: no dead link, no unknown anchor, no page that the navigation forgets."""
    folder = tmp_path_factory.mktemp("site")
    command = [ROOT / ".venv-docs" / "bin" / "mkdocs", "build", "--strict", "-f", CONFIG, "-d", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def site_file(site: Path, page: str) -> Path:
    return site / page.replace("README.md", "index.md").replace(".md", ".html")


def test_the_navigation_lists_every_page_once():
    pages = nav_pages(yaml.load(CONFIG.read_text("utf-8"), ConfigLoader)["nav"])
    assert sorted(pages) == sorted([*PAGES, "source/CONTRIBUTING.md"])


@pytest.mark.site
def test_pages_read_as_on_github(site):
    for page in PAGES:
        github = MarkdownIt("commonmark").enable("table").render((DOCS / page).read_text("utf-8"))
        shown = Content(site_file(site, page).read_text("utf-8"), of_site=True)
        assert shown.words() == Content(github, of_site=False).words(), page


@pytest.mark.site
def test_headings_have_the_anchors_of_github(site):
    for page in PAGES:
        text = site_file(site, page).read_text("utf-8")
        headings = re.findall(r'<h[1-4] id="([^"]*)">(.*?)<a class="headerlink"', text)
        assert headings, page
        for anchor, heading in headings:
            # Of equal headings the second gets -1 there and _1 here
            expected = github_anchor(html.unescape(re.sub("<.*?>", "", heading)))
            assert re.sub(r"_\d+$", "", anchor) == expected, page


@pytest.mark.site
def test_links_out_of_the_docs_lead_to_the_source(site):
    links = re.findall(r'href="(source/[^"#]*)', (site / "integration.html").read_text("utf-8"))
    assert len(links) > 20 and all((site / link).is_file() for link in links)
    assert "min_iou" in (site / "source/coordexp_trl/matching.py.html").read_text("utf-8")
    assert "metrics.py.html" in (site / "source/coordexp_trl/evaluation/index.html").read_text("utf-8")


@pytest.mark.site
@pytest.mark.chromium
@pytest.mark.parametrize("page", ["index.html", "integration.html"])
def test_pages_open_from_the_disk_without_a_network(site, page, tmp_path):
    shown = show(site / page, tmp_path / "browser", script_ms=5000)
    assert (shown.console, shown.requests) == ([], [])
    (search,) = [item for item in shown.page.attributes("div") if item.get("data-md-component") == "search"]
    assert "hidden" not in search  # the theme hides it where searching cannot work
    drawn = [item for item in shown.page.attributes("div") if item.get("class") == "mermaid"]
    waiting = [item for item in shown.page.attributes("pre") if item.get("class") == "mermaid"]
    assert (len(drawn), len(waiting)) == ((1, 0) if page == "integration.html" else (0, 0))

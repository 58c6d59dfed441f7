# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""docs/reference/ says what the code says, and Markdown shows it as it is meant."""

import argparse
import dataclasses
import importlib
import re
import sys
from pathlib import Path

import markdown
import pytest

from coordexp_trl.trainers import metrics
from coordexp_trl.trainers.detection_config import DetectionConfig
from coordexp_trl.trainers.stage2_config import CoordExpStage2Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tools():
    """The modules of tools/ that write the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield argparse.Namespace(
            **{name: importlib.import_module(name) for name in ("reference", "docstrings", "command_reference")}
        )
        for name in ("reference", "docstrings", "command_reference"):
            del sys.modules[name]


def committed() -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in (ROOT / "docs" / "reference").iterdir()}


def test_the_reference_is_that_of_the_code(tools):
    pages, written = tools.reference.pages(), committed()
    stale = sorted({name for name in pages.keys() | written.keys() if pages.get(name) != written.get(name)})
    assert stale == [], "docs/reference/ is not what the code says; write it anew: make reference"


def test_the_pages_are_made_in_the_same_way_each_time(tools):
    pages = tools.reference.pages()
    assert pages == tools.reference.pages()
    assert all(text.startswith("<!-- Generated") and text.endswith("\n") for text in pages.values())
    assert not [name for name, text in pages.items() if str(ROOT) in text or str(Path.home()) + "/" in text]


def test_every_link_to_a_page_leads_somewhere(tools):
    for name, text in tools.reference.pages().items():
        links = re.findall(r"\]\((?!http)([^)#]+)", text)
        assert [link for link in links if not (ROOT / "docs" / "reference" / link).exists()] == [], name


# The tests of the tests: what changes in the code changes a page


def test_a_changed_docstring_changes_the_page(tools, monkeypatch):
    doc = CoordExpStage2Config.__doc__.replace("Rollouts per image.", "Rollouts of each image.")
    assert doc != CoordExpStage2Config.__doc__
    monkeypatch.setattr(CoordExpStage2Config, "__doc__", doc)
    before, after = committed()["stage2-config.md"], tools.reference.pages()["stage2-config.md"]
    assert after == before.replace("Rollouts per image.", "Rollouts of each image.") != before


def test_an_added_field_is_found(tools):
    @dataclasses.dataclass
    class Config(DetectionConfig):
        """
        Configuration.

        Parameters:
            > Parameters that control the model

            depth (`int` or `str`, *optional*, defaults to `3`):
                How deep; `"a|b"` means
                both.
        """

        depth: int | str = 3

    assert tools.docstrings.options(Config) == {
        "Parameters that control the model": [("depth", "`int` or `str`", 'How deep; `"a|b"` means both.')]
    }
    (entries,) = tools.docstrings.options(Config).values()
    row = tools.reference.options_table(Config, entries).split("\n")[-1]
    assert row == '| `depth` | `int` or `str` | `3` | How deep; <code>"a&#124;b"</code> means both. |'


def test_a_new_metric_changes_the_page(tools, monkeypatch):
    section = metrics.TRAINING[0]
    added = section._replace(metrics=section.metrics | {"loss/new": metrics.Metric("nats", "New.")})
    monkeypatch.setattr(metrics, "TRAINING", (added, *metrics.TRAINING[1:]))
    page = tools.reference.pages()["metrics.md"]
    assert page.replace("| `loss/new` | nats | New. |\n", "") == committed()["metrics.md"] != page


def test_a_new_option_of_a_command_changes_the_page(tools):
    from coordexp_trl.cli.parser import CommandParser, add_command

    parser = CommandParser(prog="coordexp", description="things to do")
    command = add_command(parser.add_commands(), "draw", "draw <|coord_1|>", lambda args: None)
    command.add_argument("data", nargs="+", metavar="FILE", help="records")
    command.add_argument("--out-file", required=True, metavar="A|B", help="see --size, `--out`")
    command.add_argument("--size", type=int, default=0, help="100%% of <|coord_*|>")
    command.add_argument("--kind", choices=("x", "y"), help="which of them")
    assert tools.command_reference.command_blocks(parser, "coordexp", 1)[2:] == [
        "## `coordexp draw`",
        "Draw `<|coord_1|>`.",
        "| option | value | default | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `data` | `FILE` … | required | records |\n"
        "| `--out-file` | <code>A&#124;B</code> | required | see `--size`, `--out` |\n"
        "| `--size` | `SIZE` | `0` | 100% of <code>&lt;&#124;coord&#95;&#42;&#124;&gt;</code> |\n"
        "| `--kind` | `x`, `y` |  | which of them |",
    ]


def test_tables_read_as_meant_in_markdown(tools):
    text = tools.docstrings.table(["a", "b"], [["`<|coord_*|>`, x | y, 1 < 2", "`[1, 2]`"]])
    shown = markdown.markdown(text, extensions=["tables"])
    cells = re.findall(r"<td>(.*)</td>", shown)
    assert [cell.replace("&#124;", "|").replace("&#95;", "_").replace("&#42;", "*") for cell in cells] == [
        "<code>&lt;|coord_*|&gt;</code>, x | y, 1 &lt; 2",
        "<code>[1, 2]</code>",
    ]

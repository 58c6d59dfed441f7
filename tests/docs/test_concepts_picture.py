# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The picture of docs/concepts.md can be drawn anew, and shows what its caption says."""

import importlib
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield importlib.import_module("concepts_picture")
        del sys.modules["concepts_picture"]


@pytest.fixture(scope="module")
def step(tool):
    return tool.Step()


def test_one_object_is_written_twice_and_one_is_missed(step):
    first, last = step.parsed.objects[0], step.parsed.objects[-1]
    assert (len(step.parsed.objects), len(step.objects)) == (5, 5)
    assert step.match.unmatched_predictions == [4] and (last.desc, last.bins) == (first.desc, first.bins)
    assert dict(step.match.pairs) == {0: 4, 1: 2, 2: 1, 3: 3} and step.match.unmatched_ground_truth == [0]


def test_colours_are_those_of_the_targets(tool, step):
    text, slots, nothing = tool.TEXT, tool.MATCHED, tool.CONTEXT
    own = [tool.colors(item, step.own) for item in step.parsed.objects]
    assert own == [(nothing, slots)] * 4 + [(nothing, nothing)]
    reordered = step.protocol.parse(step.reordered.ids).objects
    assert [tool.colors(item, step.reordered) for item in reordered] == [(text, slots)] * 5
    assert [item.bins for item in reordered] == [step.objects[j].bins for j in (4, 2, 1, 3, 0)]


def test_it_is_drawn(tool, step, tmp_path):
    tool.draw(step, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000 and len(picture.getcolors()) > 100

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.fonts."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from coordexp_trl.evaluation import fonts
from coordexp_trl.evaluation.fonts import draw_text, text_width

MISSING = "\U000e1234"  # unassigned: an empty box in every font


def drawn(text, size=20):
    image = Image.new("L", (400, 40))
    draw_text(ImageDraw.Draw(image), (4, 4), text, size, 255)
    return np.asarray(image)


@pytest.mark.parametrize("text", ["cat", "кошка", "γάτα", "gård", "قط", "חתול"])
def test_scripts_that_are_always_there(text):
    ink = drawn(text)
    assert not (ink == drawn(MISSING * len(text))).all()
    columns = np.nonzero(ink.any(0))[0]
    assert 4 - 2 <= columns.min() and abs(columns.max() - 4 - text_width(text, 20)) < 4


def test_a_character_that_dejavu_lacks_comes_from_an_installed_font():
    script_a = "\U0001d49c"  # MATHEMATICAL SCRIPT CAPITAL A, in fonts that come with matplotlib
    assert ord(script_a) not in fonts._characters(fonts._dejavu())
    assert ord(script_a) in fonts._characters(fonts._font_path(script_a))
    assert [part for _, part in fonts._runs(f"é{script_a} é")] == ["é", f"{script_a} ", "é"]
    assert not (drawn(script_a) == drawn(MISSING)).all()
    assert fonts._font_path(MISSING) == fonts._dejavu()


def test_ascii_is_drawn_with_pillows_own_font_and_without_searching(monkeypatch):
    monkeypatch.setattr(fonts, "_font_path", None)
    assert fonts._runs("two words") == [(None, "two words")] and fonts._runs("") == []
    assert text_width("", 13) == 0


def test_runs_keep_the_text():
    for text in ("e\u0301a", "日本 кот\u200d cat", MISSING, " é", "🐈‍⬛ cat"):
        assert "".join(part for _, part in fonts._runs(text)) == text


def test_a_font_that_cannot_be_used_has_no_characters(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert fonts._characters(str(tmp_path / "broken.ttf")) == frozenset()

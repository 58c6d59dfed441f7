# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.report."""

import os
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from coordexp_trl.evaluation import report
from coordexp_trl.evaluation.pictures import COLORS, draw_overlay
from coordexp_trl.evaluation.report import OVERLAY_LEGEND, Figure, Gallery, Table, write_report
from coordexp_trl.records import DetectionObject

HOSTILE = "\"'><script>alert(1)</script>&amp;</pre></title>"
GREY = Image.new("RGB", (40, 30), (128, 128, 128))


@pytest.fixture
def write(tmp_path):
    """Writes a report and returns it parsed."""
    return lambda *args, **kwargs: Page(write_report(tmp_path / "report.html", *args, **kwargs))


def photograph(size):
    """Noise that compresses like a photograph: its amplitude falls with the frequency and its colours vary slowly."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size[1])[:, None], np.fft.fftfreq(size[0])[None]) + 1 / max(size)
    light, tint = (np.fft.ifft2(np.fft.fft2(rng.normal(size=size[::-1])) / frequency**p).real for p in (1.5, 2))
    bands = [128 + 45 * light / light.std() + shift * tint / tint.std() for shift in (-15, 0, 15)]
    return Image.fromarray(np.stack(bands, -1).clip(0, 255).astype("u1"))


def chart():
    picture = Image.new("RGB", (300, 200), "white")
    draw = ImageDraw.Draw(picture)
    for index in range(20):
        draw.line((0, 10 * index, 300, 190 - 7 * index), fill=COLORS["FP" if index % 2 else "GT"])
    return picture


def test_everything_appears_in_order(write):
    sections = [Gallery("Curves", [Figure(GREY, "a curve")]), Table("Result", ["", "F1"], []), Gallery("Last", [])]
    details = {"Command": "coordexp\n  demo", "Versions": "torch 2"}
    page = write("A run", sections, intro="Two\nlines.", details=details)
    assert page.source.startswith("<!DOCTYPE html>\n<html")
    assert page.texts("title", "h1") == ["A run", "A run"]
    assert page.texts("h2") == ["Curves", "Result", "Last"]
    assert page.texts("p") == ["Two\nlines.", "no pictures"]
    assert page.texts("summary") == ["Command", "Versions"]
    assert page.texts("pre") == ["coordexp\n  demo", "torch 2"]
    targets = [attributes["id"] for attributes in page.attributes("section")]
    assert [attributes["href"] for attributes in page.attributes("a")] == [f"#{target}" for target in targets]
    order = [tag for tag, *_ in page.elements if tag in ("h1", "h2", "table", "img", "details")]
    assert order == ["h1", "h2", "img", "h2", "table", "h2", "details", "details"]


def test_short_page_without_optional_parts(write):
    page = write("Empty", [])
    assert page.texts("p", "nav", "section", "details") == []


# A cell, its text, and whether a column that holds it besides the number 1 is numeric.
CELLS = [
    (0.73124, "0.7312", True),
    (4.0, "4", True),
    (0.0000123456, "1.235e-05", True),
    (float("nan"), "nan", True),  # a broken loss must be seen
    (1234567, "1234567", True),  # integers are never rounded
    (np.float32(0.1), "0.1", True),
    (np.int64(1234567), "1234567", True),
    (None, "–", True),  # a metric that was not measured
    ("0.5", "0.5", False),
    ("cat", "cat", False),
    ("", "", False),
]


@pytest.mark.parametrize(("cell", "text", "numeric"), CELLS)
def test_cells(write, cell, text, numeric):
    page = write("Cells", [Table("Cells", ["name", "value"], [("first", 1), ("second", cell)], note="a note")])
    assert page.texts("th") == ["name", "value", "first", "second"]
    assert page.texts("td") == ["1", text]
    assert [attributes.get("class") == "number" for attributes in page.attributes("td")] == [numeric] * 2
    assert page.attributes("th")[1].get("class") == ("number" if numeric else None)
    assert page.texts("p") == ["a note"]


def test_first_column_names_the_rows_even_if_numeric(write):
    page = write("Rows", [Table("Rows", ["step", "loss"], [(10, 0.5), (20, 0.25)])])
    assert [(attributes, text) for tag, attributes, text in page.elements if tag == "th"][2:] == [
        ({"scope": "row"}, "10"),
        ({"scope": "row"}, "20"),
    ]
    assert "class" not in page.attributes("th")[0]


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(exclude_characters="\r\0")))
def test_no_text_breaks_out(tmp_path_factory, text):
    text = HOSTILE + text
    table = Table(text, [text, text], [(text, text)], note=text)
    gallery = Gallery(text, [Figure(GREY, text)], note=text, columns=2, legend={text: (1, 2, 3)})
    path = tmp_path_factory.mktemp("report") / "report.html"
    page = Page(write_report(path, text, [table, gallery], intro=text, details={text: text}))
    plain = Page(write_report(path, "x", [Table("x", ["x", "x"], [("x", "x")], note="x"), gallery], "x", {"x": "x"}))
    assert [element[0] for element in page.elements] == [element[0] for element in plain.elements]
    shown = page.texts("title", "h1", "h2", "p", "th", "td", "li", "figcaption", "summary", "pre")
    assert shown == [text.encode("utf-8", "replace").decode()] * len(shown) and len(shown) == 15
    assert page.attributes("img")[0]["alt"] == shown[0]


def test_lone_surrogates_of_file_names_are_replaced(write):
    assert write(os.fsdecode(b"caf\xe9.jpg"), []).texts("h1") == ["caf?.jpg"]


def test_nothing_is_loaded_from_elsewhere(write):
    page = write("Offline", [Table("a", ["b"], []), Gallery("c", [Figure(GREY)] * 2, columns=2), Gallery("d", [])])
    addresses = {
        value
        for _, attributes, _ in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    }
    assert all(address.startswith(("data:", "#section-")) for address in addresses) and len(addresses) == 4
    assert not [tag for tag, *_ in page.elements if tag in ("script", "link", "iframe", "object", "embed", "base")]
    assert not [word for word in ("://", "url(", "@import") if word in page.source]
    policy = next(item["content"] for item in page.attributes("meta") if "http-equiv" in item)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source


def test_pictures_from_memory_and_from_files(write, tmp_path):
    chart().save(tmp_path / "chart.png")
    palette, alpha = chart().convert("P"), Image.new("RGBA", (5, 7), (255, 0, 0, 0))
    page = write("a", [Gallery("All", [Figure(tmp_path / "chart.png", "a chart"), Figure(palette), Figure(alpha)])])
    pictures = page.pictures()
    assert [picture.size for picture in pictures] == [(300, 200), (300, 200), (5, 7)]
    assert np.array_equal(pictures[0].convert("RGB"), chart())
    assert pictures[2].convert("RGBA").getpixel((0, 0))[3] == 0  # transparency is kept
    sizes = [(attributes["width"], attributes["height"]) for attributes in page.attributes("img")]
    assert sizes == [("300", "200"), ("300", "200"), ("5", "7")]
    assert [attributes["alt"] for attributes in page.attributes("img")] == ["a chart", "All", "All"]
    assert page.texts("figcaption") == ["a chart"]


def test_metadata_stays_out(write, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a browser would turn the picture
    exif[0x010E] = "where it was taken"
    GREY.save(tmp_path / "photo.jpg", exif=exif, icc_profile=b"a profile of four inks")
    (picture,) = write("a", [Gallery("b", [Figure(tmp_path / "photo.jpg")])]).pictures()
    assert picture.size == GREY.size and not picture.getexif() and "icc_profile" not in picture.info


def test_large_pictures_are_shrunk_and_the_callers_own_is_left_alone(write):
    wide, tall = Image.new("RGB", (4320, 100)), Image.new("RGB", (10, 20000))
    pictures = write("a", [Gallery("b", [Figure(wide), Figure(tall)])]).pictures()
    assert [picture.size for picture in pictures] == [(2160, 50), (8, 16383)]
    assert wide.size == (4320, 100)


def test_overlays_of_photographs_stay_small(write):
    image = photograph((800, 600))
    overlay = draw_overlay(image, [DetectionObject("cat", bbox_2d=(20, 20, 500, 400))], [], title="photo.jpg")
    page = write("a", [Gallery("b", [Figure(overlay)] * 4)])
    assert len(page.source) < 4 * 5_000_000 / 24  # 24 of them in 5 MB
    difference = np.abs(np.asarray(page.pictures()[0], dtype=float) - np.asarray(overlay))
    assert difference.mean() < 6


def test_greyscale_photographs_have_few_colours_but_stay_small(write, monkeypatch):
    tried, encode = [], report._webp
    monkeypatch.setattr(report, "_webp", lambda image, **options: tried.append(options) or encode(image, **options))
    (picture,) = write("a", [Gallery("b", [Figure(photograph((400, 300)).convert("L"))])]).pictures()
    assert picture.format == "WEBP" and picture.fp.getbuffer().nbytes < 400 * 300 / 4
    assert len(tried) == 1  # lossless compression, which is slow, is not even tried


def test_columns_and_legend(write):
    one = Gallery("one", [Figure(GREY)])
    two = Gallery("two", [Figure(GREY), Figure(GREY)], columns=2, legend=OVERLAY_LEGEND)
    page = write("a", [one, two])
    styles = [attributes["style"] for attributes in page.attributes("div") if attributes["class"] == "gallery"]
    assert styles == ["--columns: 1", "--columns: 2"]
    assert len(page.attributes("input")) == 2  # only pictures beside others can be enlarged
    assert page.texts("li") == list(OVERLAY_LEGEND) and len(OVERLAY_LEGEND) == 5
    colors = [bytes.fromhex(attributes["fill"][1:]) for attributes in page.attributes("rect")]
    assert colors == [bytes(COLORS[kind]) for kind in ("GT", "TP", "FP", "duplicate", "FN")]


# How to make the mistake, and what the message must name.
MISTAKES = [
    (lambda: Table("T", ["a", "b"], [(1, 2), (1, 2, 3)]), r"rows\[1\] of table 'T' = \(1, 2, 3\).*3 cells for 2"),
    (lambda: Table("T", [], []), "headers of table 'T'"),
    (lambda: Gallery("G", [], columns=0), "columns of gallery 'G' = 0"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("content", [None, b"not an image", b"\x89PNG\r\n\x1a\n"])  # None: there is no file
def test_unreadable_figure_keeps_the_old_report(tmp_path, content):
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    report = write_report(tmp_path / "report.html", "old", [])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="broken.png"):
        write_report(report, "new", [Gallery("a", [Figure(tmp_path / "broken.png")])])
    assert Page(report).texts("h1") == ["old"] and sorted(tmp_path.iterdir()) == before


def test_interrupted_write_keeps_the_old_report(tmp_path, monkeypatch):
    report = write_report(tmp_path / "report.html", "old", [])

    def fail(source, target):
        assert Page(Path(source)).texts("h1") == ["new"]  # complete before it takes the name
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(report, "new", [])
    assert Page(report).texts("h1") == ["old"] and list(tmp_path.iterdir()) == [report]


def test_same_arguments_give_the_same_file_and_folders_are_made(tmp_path):
    sections = [Table("T", ["a"], [(1,)]), Gallery("G", [Figure(chart())])]
    first = write_report(str(tmp_path / "new" / "a.html"), "a", sections)
    second = write_report(tmp_path / "b.html", "a", sections)
    assert first == tmp_path / "new" / "a.html" and first.read_bytes() == second.read_bytes()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.show and coordexp data show."""

import pytest
from PIL import Image

from coordexp_trl.cli import main
from coordexp_trl.evaluation.pictures import COLORS, draw_objects
from coordexp_trl.records import DetectionObject, DetectionRecord, write_records

SIZE = (400, 300)
HEADER = 26  # pixels of text above the image


@pytest.fixture
def data(tmp_path):
    records = []
    for index in range(5):
        Image.new("RGB", SIZE, (10, 10, 10)).save(tmp_path / f"{index}.png")
        records.append(DetectionRecord((f"{index}.png",), *SIZE, (DetectionObject("cat", (100, 100, 200, 200)),)))
    write_records(records, tmp_path / "a.jsonl")
    return tmp_path / "a.jsonl"


@pytest.mark.parametrize(
    "item",
    [DetectionObject("cat", (100, 75, 200, 225)), DetectionObject("cat", bins=(250, 250, 500, 749))],
)
def test_a_box_is_drawn_where_it_is(item):
    picture = draw_objects(Image.new("RGB", SIZE), [item])
    near = [picture.getpixel((100 + dx, HEADER + 150)) for dx in (-2, -1, 0, 1, 2)]
    assert COLORS["GT"] in near
    assert picture.getpixel((150, HEADER + 150)) == (0, 0, 0)


@pytest.mark.parametrize("points", ["pixels", "bins"])
def test_a_polygon_is_drawn_along_its_edges(points):
    corners = (100, 75, 300, 75, 100, 225)
    if points == "bins":
        item = DetectionObject("cat", bins=tuple(round(v / (400, 300)[k % 2] * 999) for k, v in enumerate(corners)))
    else:
        item = DetectionObject("cat", poly=corners)
    picture = draw_objects(Image.new("RGB", SIZE), [item])
    on_diagonal = [picture.getpixel((200 + dx, HEADER + 150)) for dx in (-2, -1, 0, 1, 2)]
    assert any(pixel != (0, 0, 0) for pixel in on_diagonal)
    assert picture.getpixel((130, HEADER + 120)) == (0, 0, 0)


def test_chosen_lines(data, tmp_path, capsys):
    assert main(["data", "show", str(data), "--out", str(tmp_path / "out"), "--lines", "2,4"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"2_1.jpg", "4_3.jpg", "sheet.jpg"}


def test_a_seed_draws_the_same_records(data, tmp_path):
    names = []
    for run, seed in enumerate((0, 0, 1, 2, 3)):
        out = tmp_path / str(run)
        assert main(["data", "show", str(data), "--out", str(out), "--num", "2", "--seed", str(seed)]) == 0
        names.append({path.name for path in out.iterdir()})
    assert names[0] == names[1] and any(other != names[0] for other in names[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lines", "9"], "no record in line 9"),
        (["--lines", "x"], "must be line numbers"),
        (["--num", "0"], "num = 0"),
    ],
)
def test_mistakes(data, tmp_path, capsys, options, message):
    assert main(["data", "show", str(data), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.qwen."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor

from coordexp_trl import cli
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.qwen import MAX_PIXELS, MIN_PIXELS, export_qwen
from coordexp_trl.records import DetectionObject, DetectionRecord, write_records

PATCH = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("qwen")


def export(folder, *objects, width=640, height=480, **options):
    """The lines of the export of one record, or of those given, and the report."""
    records = [objects] if not objects or isinstance(objects[0], DetectionObject) else objects
    path = folder / "records.jsonl"
    write_records((DetectionRecord(("img/a.jpg",), width, height, tuple(each)) for each in records), path)
    report = export_qwen(path, folder / "qwen.jsonl", **options)
    return [json.loads(line) for line in (folder / "qwen.jsonl").read_text().splitlines()], report


def answers(lines):
    """The objects of each answer, as an evaluation of Qwen's models parses them."""
    return [
        [(item["label"], item["bbox_2d"]) for item in json.loads(line["conversations"][1]["value"])] for line in lines
    ]


def test_the_line(folder):
    (line,), report = export(folder, DetectionObject('"Café" sign', (64, 48, 320, 480)))
    assert line == {
        "image": str(folder / "img" / "a.jpg"),
        "conversations": [
            {
                "from": "human",
                "value": "<image>\nLocate every object in the image and output the bbox coordinates in JSON format.",
            },
            {"from": "gpt", "value": '[{"bbox_2d": [100, 100, 500, 1000], "label": "\\"Café\\" sign"}]'},
        ],
    }
    assert report == ConversionReport(1, 1, 1)


def test_bins_polygons_and_images_without_objects(folder):
    lines, report = export(
        folder,
        (DetectionObject("cat", bins=(0, 333, 999, 666)),),
        (DetectionObject("cat", poly=(64, 48, 320, 48, 64, 480)), DetectionObject("dog", (0, 0, 640, 480))),
        (),
        image_paths="relative",
    )
    assert answers(lines) == [
        [("cat", [0, 333, 1000, 667])],  # 333/999 and 666/999 of 1000
        [("cat", [100, 100, 500, 1000]), ("dog", [0, 0, 1000, 1000])],
        [],
    ]
    assert report == ConversionReport(3, 3, 3, {}, {"polygon as its box": 1})
    assert lines[0]["image"] == "img/a.jpg"


SIDES = st.integers(1, 4000)


@given(width=SIDES, height=SIDES, unit=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_thousandths_are_the_nearest_and_never_collapse(folder, width, height, unit):
    (left, right), (top, bottom) = sorted(unit[:2]), sorted(unit[2:])
    box = (left * width, top * height, right * width, bottom * height)
    if box[2] <= box[0] or box[3] <= box[1]:
        return
    lines, _ = export(folder, DetectionObject("cat", box), width=width, height=height)
    (((_, found),),) = answers(lines)
    assert 0 <= found[0] < found[2] <= 1000 and 0 <= found[1] < found[3] <= 1000
    for low, high in ((0, 2), (1, 3)):
        exact = [value * 1000 for value in (left, top, right, bottom)]
        tolerance = 0.5 if round(exact[high]) > round(exact[low]) else 1.5  # widened
        assert found[low] == pytest.approx(exact[low], abs=tolerance + 1e-6)
        assert found[high] == pytest.approx(exact[high], abs=tolerance + 1e-6)


@pytest.mark.parametrize("size", [(640, 480), (50, 40), (2000, 333), (1280, 1281)])
@pytest.mark.parametrize("limits", [(MIN_PIXELS, MAX_PIXELS), (256 * 784, 1280 * 784)])
def test_pixels_are_those_of_the_image_that_the_processor_makes(folder, size, limits):
    width, height = size
    min_pixels, max_pixels = limits
    processor = Qwen2VLImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels)
    grid = processor(Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0].tolist()
    resized = (grid[2] * PATCH, grid[1] * PATCH)
    box = (width / 5, height / 3, width / 2, height)
    options = {"coordinates": "pixels", "min_pixels": min_pixels, "max_pixels": max_pixels}
    lines, _ = export(folder, DetectionObject("cat", box), width=width, height=height, **options)
    (((_, found),),) = answers(lines)
    expected = (resized[0] / 5, resized[1] / 3, resized[0] / 2, resized[1])
    assert found == [round(value) for value in expected]


def test_mistakes(folder):
    cat = DetectionObject("cat", (64, 48, 320, 480))
    for objects, options, message in [
        ([cat], {"coordinates": "norm"}, "coordinates = 'norm'"),
        ([cat], {"min_pixels": 9, "max_pixels": 8}, "min_pixels = 9, max_pixels = 8"),
        ([cat], {"prompt": "<image>\n<image>\nFind"}, "one <image> too many"),
        ([cat], {"prompt": "<video>Find"}, "one <video> too many"),
        ([DetectionObject("an <image> tag", (64, 48, 320, 480))], {}, "records.jsonl:1: desc = 'an <image> tag'"),
        ([cat], {"coordinates": "pixels", "width": 640, "height": 1}, "records.jsonl:1: 640 x 1 pixels: .*aspect"),
    ]:
        (folder / "qwen.jsonl").unlink(missing_ok=True)
        if "height" in options:
            objects = [DetectionObject("cat", (0, 0, 9, 1))]
        with pytest.raises(ValueError, match=message):
            export(folder, *objects, **options)
        assert list(folder.glob("*qwen.jsonl*")) == []


def test_command(folder, capsys):
    export(folder, DetectionObject("cat", (64, 48, 320, 480)))
    command = ["data", "export", "qwen", "--data", str(folder / "records.jsonl"), "--out", str(folder / "cli.jsonl")]
    assert cli.main([*command, "--image-paths", "relative", "--prompt", "Find cats."]) == 0
    assert "objects out" in capsys.readouterr().out
    line = json.loads((folder / "cli.jsonl").read_text())
    assert line["image"] == "img/a.jpg" and line["conversations"][0]["value"] == "<image>\nFind cats."
    assert answers([line]) == [[("cat", [100, 100, 500, 1000])]]
    assert cli.main([*command, "--coordinates", "pixels"]) == 0
    line = json.loads((folder / "cli.jsonl").read_text())
    assert answers([line]) == [[("cat", [64, 48, 322, 476])]]  # 644 x 476 pixels

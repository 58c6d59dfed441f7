# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.ms_swift."""

import json

import datasets
import pytest
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.ms_swift import convert_ms_swift, export_ms_swift
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records

WIDTH, HEIGHT = 40, 30
A, B = [2, 3, 12, 23], [0, 0, 40, 30]


class Swift:
    """A dataset of ms-swift, `img/a.jpg` and `img/b.jpg`, and the conversion to `out.jsonl`."""

    def __init__(self, root):
        self.root, self.file, self.out = root, root / "swift.jsonl", root / "out.jsonl"
        (root / "img").mkdir()
        for name in "ab":
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / "img" / f"{name}.jpg")

    def convert(self, *rows, **options):
        self.file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return convert_ms_swift(self.file, self.out, **options)

    def records(self, *rows, **options):
        report = self.convert(*rows, **options)
        return [
            (record.images[0], [(item.desc, item.bbox_2d) for item in record.objects])
            for record in read_records(self.out)
        ], report


@pytest.fixture
def swift(tmp_path):
    return Swift(tmp_path)


def row(user="Detect", assistant="<ref-object><bbox>", images=("img/a.jpg",), **objects):
    messages = [{"role": "user", "content": f"<image>{user}"}, {"role": "assistant", "content": assistant}]
    return {"messages": messages, "images": list(images), "objects": {"ref": ["cat"], "bbox": [A]} | objects}


# The line, options, images with descriptions and boxes, what the report says.
LINES = [
    (row(), [("img/a.jpg", [("cat", A)])], {}),
    (row(bbox_type="real"), [("img/a.jpg", [("cat", A)])], {}),
    (row(bbox=[[0.05, 0.1, 0.3, 0.766667]], bbox_type="norm1"), [("img/a.jpg", [("cat", A)])], {}),
    (row(ref=["cat", "dog"], bbox=[A, B]), [("img/a.jpg", [("cat", A), ("dog", B)])], {}),
    (row(ref=[], bbox=[]), [("img/a.jpg", [])], {}),
    # one reference for several boxes, or several that are named before
    (row("Find <ref-object>", "<bbox><bbox>", bbox=[A, B]), [("img/a.jpg", [("cat", A), ("cat", B)])], {}),
    (
        row("Find <ref-object>", "<bbox>; <ref-object>: <bbox><bbox>", ref=["cat", "dog"], bbox=[A, B, A]),
        [("img/a.jpg", [("cat", A), ("dog", B), ("dog", A)])],
        {},
    ),
    (row("Where?", "<bbox>", ref=[]), [("img/a.jpg", [])], {"dropped": {"no description": 1}}),
    (row(bbox=[[5, 6]]), [("img/a.jpg", [])], {"dropped": {"point": 1}}),
    # image references in other forms
    (row(images=[{"bytes": None, "path": "img/a.jpg"}]), [("img/a.jpg", [("cat", A)])], {}),
    ({**row(), "images": "img/a.jpg"}, [("img/a.jpg", [("cat", A)])], {}),
    # several images
    (
        row(images=["img/a.jpg", "img/b.jpg"], ref=["cat", "dog"], bbox=[A, B], image_id=[1, 0]),
        [("img/a.jpg", [("dog", B)]), ("img/b.jpg", [("cat", A)])],
        {},
    ),
    (
        row(images=["img/a.jpg", "img/b.jpg"]),
        [("img/a.jpg", [("cat", A)])],
        {"notes": {"image without boxes beside others, left out": 1}},
    ),
    # boxes that cannot stay as they are
    (
        row(bbox=[[-4, 3, 12, 99]]),
        [("img/a.jpg", [("cat", [0, 3, 12, 30])])],
        {"notes": {"box clipped to the image": 1}},
    ),
    (row(bbox=[[9, 5, 5, 9]]), [("img/a.jpg", [])], {"dropped": {"inverted box": 1}}),
    (row(bbox=[[5, 5, 5, 9]]), [("img/a.jpg", [])], {"dropped": {"degenerate box": 1}}),
    (row(bbox=[[50, 5, 60, 9]]), [("img/a.jpg", [])], {"dropped": {"box outside the image": 1}}),
    (row(bbox=[[float("nan"), 5, 60, 9]]), [("img/a.jpg", [])], {"dropped": {"coordinate not a finite number": 1}}),
]


@pytest.mark.parametrize("line, expected, counts", LINES)
def test_lines(swift, line, expected, counts):
    found, report = swift.records(line)
    assert found == [
        (image, [(desc, pytest.approx(box, abs=1e-4)) for desc, box in boxes]) for image, boxes in expected
    ]
    num_out, dropped = sum(len(boxes) for _, boxes in expected), counts.get("dropped", {})
    num_in = num_out + sum(dropped.values())
    assert report == ConversionReport(len(expected), num_in, num_out, dropped, counts.get("notes", {}))


def test_lines_that_are_no_grounding_are_counted(swift):
    text = {"messages": [{"role": "user", "content": "Hello"}]}
    found, report = swift.records(text, row(), text | {"objects": {"bbox": []}, "images": []})
    assert len(found) == 1 and report.notes == {"line without objects": 1, "line without images": 1}


# The line, what the error says after the file.
MISTAKES = [
    ("[1]", ":1: the line is not a JSON object"),
    (row() | {"objects": []}, r":1: objects = \[\]: must be a JSON object"),
    (row(bbox=None), ":1: objects.bbox = None: must be a list"),
    (row(bbox=[[1, 2, 3]]), r":1: objects.bbox\[0\] = \[1, 2, 3\]: must be a list of four numbers"),
    (row(bbox=[[1, 2, 3, "4"]]), r":1: objects.bbox\[0\]: '4' is no number"),
    (row(ref="cat"), ":1: objects.ref = 'cat': must be a list of texts"),
    (row(ref=[1]), r":1: objects.ref = \[1\]: must be a list of texts"),
    (row(bbox_type="norm1000"), ":1: objects.bbox_type = 'norm1000': must be one of real, norm1"),
    (row(image_id=[1]), r":1: objects.image_id\[0\] = 1: the line has 1 images"),
    (row(image_id=[-1]), r":1: objects.image_id\[0\] = -1"),
    (row(image_id=0.5), ":1: objects.image_id = 0.5: must be a list"),
    (row(images=[]), r":1: objects.image_id\[0\] = 0: the line has 0 images"),
    (row(images=["img/c.jpg"]), "c.jpg: no such image, needed by .*swift.jsonl:1"),
    (row(images=["../a.jpg"]), ":1: images = '../a.jpg': leaves the image folder"),
    (row(images=["https://example.com/a.jpg"]), ":1: images: .* is no file. Save the image"),
    (row(images=[{"bytes": "xx", "path": None}]), ":1: images = .*must hold paths"),
    (row() | {"images": None}, ":1: images = .*must hold paths"),
    (row(ref=[]) | {"messages": None}, ":1: messages = None: must be a list"),
    (row(ref=[]) | {"messages": [{"role": "user", "content": []}]}, ":1: messages: .*must have content that is text"),
    (
        row(ref=["cat"] * 12, bbox=[[0.1, 0.1, 0.2 + i / 99, 0.5] for i in range(12)]),
        'look normalised.*"bbox_type": "norm1".*--no-convention-check',
    ),
]


@pytest.mark.parametrize("line, message", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(swift, line, message):
    with pytest.raises(ValueError, match=message):
        swift.convert(line)
    assert list(swift.root.glob("*out*")) == []


def test_missing_images_of_one_line(swift):
    line = row(images=["img/a.jpg", "img/c.jpg"], ref=["cat", "dog"], bbox=[A, B], image_id=[0, 1])
    report = swift.convert(line, skip_missing_images=True)
    assert report == ConversionReport(1, 2, 1, {"image missing": 1}, {"image missing": 1})


@pytest.fixture
def records(swift):
    """A file of records in pixels, bins, with a polygon and without objects; and the boxes of the objects."""
    objects = [
        (DetectionObject("cat", (2.25, 3, 12, 23)), DetectionObject('a "big" dog', (0, 0, 40, 30))),
        (DetectionObject("dog", bins=(0, 333, 999, 666)),),
        (DetectionObject("<bbox> on a wall", poly=(1, 2, 9, 2, 5, 20.5)),),
        (),
    ]
    path = swift.root / "records.jsonl"
    write_records((DetectionRecord(("img/a.jpg",), 40, 30, each) for each in objects), path)
    boxes = [
        [("cat", (2.25, 3, 12, 23)), ('a "big" dog', (0, 0, 40, 30))],
        [("dog", (0, 10, 40, 20))],
        [("<bbox> on a wall", (1, 2, 9, 20.5))],
        [],
    ]
    return path, [[(desc, pytest.approx(box, abs=1e-9)) for desc, box in each] for each in boxes]


@pytest.mark.parametrize("image_paths", ["absolute", "relative"])
def test_export_and_back(swift, records, image_paths):
    path, expected = records
    report = export_ms_swift(path, swift.file, image_paths=image_paths)
    notes = {"polygon as its box": 1, "description with quotation mark or backslash": 1}
    assert report == ConversionReport(4, 4, 4, {}, notes)
    report = convert_ms_swift(swift.file, swift.out)
    assert report == ConversionReport(4, 4, 4, {}, {"image in a further record": 3})
    found = read_records(swift.out)
    assert [[(item.desc, item.bbox_2d) for item in record.objects] for record in found] == expected
    assert {record.images for record in found} == {("img/a.jpg",)}


def test_what_ms_swift_reads(swift, records):
    path, _ = records
    export_ms_swift(path, swift.file, prompt="Find all.")
    lines = [json.loads(line) for line in swift.file.read_text().splitlines()]
    assert lines[0] == {
        "messages": [
            {"role": "user", "content": "<image>Find all."},
            {
                "role": "assistant",
                "content": "[" + ", ".join(['{"bbox_2d": <bbox>, "label": "<ref-object>"}'] * 2) + "]",
            },
        ],
        "images": [str(swift.root / "img" / "a.jpg")],
        "objects": {
            "ref": ["cat", 'a "big" dog'],
            "bbox": [[2.25, 3.0, 12.0, 23.0], [0.0, 0.0, 40.0, 30.0]],
            "bbox_type": "real",
        },
    }
    assert lines[3]["messages"][1]["content"] == "[]" and lines[3]["objects"]["bbox"] == []


def test_integers_before_fractions_load_with_datasets(swift):
    """ms-swift loads JSONL with `datasets`, which fixes the type of a column by the first lines that it reads."""
    boxes = [(0, 0, 40, 30)] * 400 + [(2.25, 3, 12, 23)]
    path = swift.root / "records.jsonl"
    write_records((DetectionRecord(("img/a.jpg",), 40, 30, (DetectionObject("cat", box),)) for box in boxes), path)
    export_ms_swift(path, swift.file)
    cache = str(swift.root / "cache")
    loaded = datasets.load_dataset("json", data_files=str(swift.file), split="train", cache_dir=cache, chunksize=4096)
    assert loaded[-1]["objects"]["bbox"] == [[2.25, 3, 12, 23]]


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("  ", "must not be blank"),
        ("<image><image>Find", "has one <image> too many"),
        ("Find <bbox>", "has one <bbox> too many"),
    ],
)
def test_prompts_that_ms_swift_would_misread(swift, records, prompt, message):
    with pytest.raises(ValueError, match=message):
        export_ms_swift(records[0], swift.file, prompt=prompt)


def test_commands(swift, records, capsys):
    path, expected = records
    command = ["data", "export", "ms-swift", "--data", str(path), "--out", str(swift.file)]
    assert cli.main([*command, "--prompt", "Look at <image>. Find all."]) == 0
    assert "polygon as its box" in capsys.readouterr().out
    line = json.loads(swift.file.read_text().splitlines()[0])
    assert line["messages"][0]["content"] == "Look at <image>. Find all."
    command = ["data", "convert", "ms-swift", "--annotations", str(swift.file), "--out", str(swift.out)]
    assert cli.main(command) == 0
    found = read_records(swift.out)
    assert [[(item.desc, item.bbox_2d) for item in record.objects] for record in found] == expected
    assert cli.main([*command, "--images", str(swift.root / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.odvg, odvg_export and, through them, of the export to lines."""

import json

import pytest
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.odvg import convert_odvg
from coordexp_trl.datasets.odvg_export import export_odvg
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records

WIDTH, HEIGHT = 40, 30
BOX = [2, 3, 12, 23]
FIRST = {"filename": "a.jpg", "height": HEIGHT, "width": WIDTH}


def detection(*instances, **fields):
    return FIRST | {"detection": {"instances": list(instances)}} | fields


def grounding(*regions, caption="A cat.", **fields):
    return FIRST | {"grounding": {"caption": caption, "regions": list(regions)}} | fields


def instance(bbox=BOX, label=0, category="cat"):
    return {"bbox": bbox, "label": label} | ({} if category is None else {"category": category})


class Odvg:
    """An ODVG file, the folder `img` with `a.jpg`, and their conversion to `out.jsonl`."""

    def __init__(self, root):
        self.root, self.file, self.out = root, root / "odvg.jsonl", root / "out.jsonl"
        (root / "img").mkdir()
        self.image("a.jpg")

    def image(self, name, **options):
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.root / "img" / name, **options)

    def convert(self, *rows, **options):
        self.file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        if "label_map" in options:
            (self.root / "map.json").write_text(json.dumps(options["label_map"]))
            options["label_map"] = self.root / "map.json"
        return convert_odvg(self.file, self.root / "img", self.out, **options)

    def objects(self, *rows, **options):
        report = self.convert(*rows, **options)
        return [(item.desc, item.bbox_2d) for record in read_records(self.out) for item in record.objects], report


@pytest.fixture
def odvg(tmp_path):
    return Odvg(tmp_path)


# The line, options, descriptions and boxes, what the report says.
LINES = [
    (detection(instance(), instance([0, 0, 40, 30], 1, "dog")), {}, [("cat", BOX), ("dog", [0, 0, 40, 30])], {}),
    (detection(), {}, [], {}),
    (detection(instance(category=None)), {"label_map": {"0": "tabby"}}, [("tabby", BOX)], {}),
    (detection(instance()), {"label_map": {"0": "tabby"}}, [("tabby", BOX)], {}),  # as the tools read it
    (detection(instance(label="0")), {"label_map": {"0": "tabby"}}, [("tabby", BOX)], {}),
    (grounding({"phrase": "A cat", "bbox": BOX}), {}, [("A cat", BOX)], {}),
    (
        grounding({"phrase": ["two", "cats"], "bbox": [BOX, [0, 0, 5, 5]]}),
        {},
        [("two cats", BOX), ("two cats", [0, 0, 5, 5])],
        {},
    ),
    (
        detection(instance(), **grounding({"phrase": "A cat", "bbox": [0, 0, 5, 5]})),
        {"field": "detection"},
        [("cat", BOX)],
        {},
    ),
    (
        detection(instance(), **grounding({"phrase": "A cat", "bbox": BOX})),
        {"field": "grounding"},
        [("A cat", BOX)],
        {},
    ),
    (detection(instance([-4, 3, 12, 99])), {}, [("cat", [0, 3, 12, 30])], {"notes": {"box clipped to the image": 1}}),
    (detection(instance([5, 5, 5, 9])), {}, [], {"dropped": {"degenerate box": 1}}),
    (detection(instance([9, 5, 5, 9])), {}, [], {"dropped": {"inverted box": 1}}),
    (detection(instance([50, 5, 60, 9])), {}, [], {"dropped": {"box outside the image": 1}}),
    (detection(instance([5, 5, float("inf"), 9])), {}, [], {"dropped": {"coordinate not a finite number": 1}}),
    (grounding({"phrase": " ", "bbox": BOX}), {}, [], {"dropped": {"no description": 1}}),
]


@pytest.mark.parametrize("line, options, expected, counts", LINES)
def test_lines(odvg, line, options, expected, counts):
    found, report = odvg.objects(line, **options)
    assert found == [(desc, tuple(box)) for desc, box in expected]
    dropped = counts.get("dropped", {})
    num_in = len(expected) + sum(dropped.values())
    assert report == ConversionReport(1, num_in, len(expected), dropped, counts.get("notes", {}))


def test_captions_become_summaries(odvg):
    odvg.convert(grounding(caption="A cat sleeps."), detection())
    assert [record.summary for record in read_records(odvg.out)] == ["A cat sleeps.", None]


# The line, options, what the error says after the file.
MISTAKES = [
    ("{", {}, ":1: invalid JSON"),
    ("[]", {}, r":1: the line is not a JSON object: \[\]"),
    (FIRST, {}, ":1: has neither of detection and grounding"),
    (detection(**grounding()), {}, ":1: has both of detection and grounding. Choose one"),
    (grounding(), {"field": "detection"}, ":1: detection: must be a JSON object"),
    (detection() | {"filename": None}, {}, ":1: filename = None: must be the path"),
    (detection() | {"filename": "../img/a.jpg"}, {}, ":1: filename = '../img/a.jpg': leaves the image folder"),
    (detection() | {"filename": "b.jpg"}, {}, "b.jpg: no such image, needed by .*odvg.jsonl:1"),
    (detection() | {"height": 31}, {}, ":1: .*the image is 40 x 30 pixels.*40 x 31"),
    (detection() | {"width": "40"}, {}, ":1: width = '40': must be an integer"),
    (FIRST | {"detection": []}, {}, r":1: detection = \[\]: must be a JSON object"),
    (FIRST | {"detection": {}}, {}, ":1: detection.instances: must be a list"),
    (detection(3), {}, r":1: detection.instances\[0\] = 3: must be a JSON object"),
    (detection(instance(category=None)), {}, r"instances\[0\]: has no category. Give the label map"),
    (detection(instance(category=4)), {}, r"instances\[0\].category = 4: must be text"),
    (
        detection(instance(label=2)),
        {"label_map": {"0": "cat"}},
        r"instances\[0\].label = 2: is not among the 1 labels",
    ),
    (detection(), {"label_map": ["cat"]}, "map.json: must map labels to class names"),
    (detection(instance([1, 2, 3])), {}, r"instances\[0\].bbox = \[1, 2, 3\]: must be a list of four numbers"),
    (detection(instance(["1", 2, 3, 4])), {}, r"instances\[0\].bbox: '1' is no number"),
    (grounding({"bbox": BOX}), {}, r"grounding.regions\[0\].phrase = None: must be text"),
    (grounding({"phrase": "cat", "bbox": [BOX, 4]}), {}, r"regions\[0\].bbox = 4: must be a list of four numbers"),
    (grounding(caption=3), {}, ":1: summary = 3"),
    (detection(), {"field": "boxes"}, "field = 'boxes'"),
    (
        detection(*[instance([i / 20, 0.1, i / 20 + 0.1, 0.9]) for i in range(12)]),
        {},
        "look normalised.*ODVG boxes are",
    ),
    (detection(*[instance([30, 20, 5, 5 + i / 9]) for i in range(12)]), {}, "look like x, y, width, height"),
]


@pytest.mark.parametrize("line, options, message", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(odvg, line, options, message):
    with pytest.raises(ValueError, match=message):
        odvg.convert(line, **options)
    assert list(odvg.root.glob("*out*")) == []


def test_the_line_of_a_mistake(odvg):
    with pytest.raises(ValueError, match=r"odvg.jsonl:4: filename = 3"):
        odvg.convert(detection(), "", detection(), detection() | {"filename": 3})
    odvg.file.write_bytes(b'{"filename": "\xff"}')
    with pytest.raises(ValueError, match=r"odvg.jsonl:1: byte 15 is not UTF-8"):
        convert_odvg(odvg.file, odvg.root / "img", odvg.out)
    odvg.file.write_bytes(b"\n")
    with pytest.raises(ValueError, match="the file is empty"):
        convert_odvg(odvg.file, odvg.root / "img", odvg.out)


def test_photographs_turned_by_exif_are_named(odvg):
    exif = Image.Exif()
    exif[0x0112] = 8
    odvg.image("a.jpg", exif=exif)
    with pytest.raises(ValueError, match=r"odvg.jsonl:1: .*EXIF orientation.*exif_transpose"):
        odvg.convert(detection() | {"width": HEIGHT, "height": WIDTH})


def test_missing_and_repeated_images(odvg):
    rows = [detection(instance()), detection(instance(), instance([0, 0, 5, 5])) | {"filename": "b.jpg"}]
    report = odvg.convert(*rows, detection(), skip_missing_images=True)
    notes = {"image missing": 1, "image in a further record": 1}
    assert report == ConversionReport(2, 3, 1, {"image missing": 2}, notes)


@pytest.fixture
def records(odvg):
    """A file of records: boxes, bins, a polygon and no objects; and the boxes as exports shall hold them."""
    objects = [
        (DetectionObject("cat", (2.5, 3, 12, 23.25)), DetectionObject("black dog", (0, 0, 40, 30))),
        (DetectionObject("dog", bins=(0, 333, 999, 666)), DetectionObject("cat", bins=(1, 2, 3, 4))),
        (DetectionObject("cat", poly=(1, 2, 9, 2, 5, 20.5)),),
        (),
    ]
    for index in range(4):
        odvg.image(f"{index}.jpg")
    path = odvg.root / "records.jsonl"
    write_records((DetectionRecord((f"img/{i}.jpg",), 40, 30, each) for i, each in enumerate(objects)), path)
    x, y = 40 / 999, 30 / 999
    boxes = [
        [("cat", (2.5, 3, 12, 23.25)), ("black dog", (0, 0, 40, 30))],
        [("dog", (0, 333 * y, 40, 666 * y)), ("cat", (x, 2 * y, 3 * x, 4 * y))],
        [("cat", (1, 2, 9, 20.5))],
        [],
    ]
    return path, [[(desc, pytest.approx(box, abs=1e-9)) for desc, box in each] for each in boxes]


@pytest.mark.parametrize("field", ["detection", "grounding"])
def test_export_and_back(odvg, records, field):
    path, expected = records
    exported = odvg.root / "exported" / "odvg.jsonl"
    report = export_odvg(path, exported, field=field)
    left_out = {"record without objects, left out": 1} if field == "grounding" else {}
    expected = expected[:-1] if field == "grounding" else expected
    assert report == ConversionReport(len(expected), 5, 5, {}, {"polygon as its box": 1} | left_out)
    label_map = exported.with_name("odvg_label_map.json")
    assert label_map.exists() == (field == "detection")
    for names in (None, label_map) if field == "detection" else (None,):
        convert_odvg(exported, odvg.root, odvg.out, label_map=names)
        found = read_records(odvg.out)
        assert [[(item.desc, item.bbox_2d) for item in record.objects] for record in found] == expected
        assert [record.images[0] for record in found] == [f"img/{index}.jpg" for index in range(len(expected))]


def test_what_the_tools_read(odvg, records):
    path, _ = records
    export_odvg(path, odvg.file, label_map=odvg.root / "map.json")
    assert json.loads((odvg.root / "map.json").read_text()) == {"0": "cat", "1": "black dog", "2": "dog"}
    rows = [json.loads(line) for line in odvg.file.read_text().splitlines()]
    assert rows[0] == {
        "filename": "img/0.jpg",
        "height": 30,
        "width": 40,
        "detection": {
            "instances": [
                {"bbox": [2.5, 3, 12, 23.25], "label": 0, "category": "cat"},
                {"bbox": [0, 0, 40, 30], "label": 1, "category": "black dog"},
            ]
        },
    }
    assert rows[3]["detection"] == {"instances": []}
    export_odvg(path, odvg.file, field="grounding")
    grounding = json.loads(odvg.file.read_text().splitlines()[0])["grounding"]
    assert grounding["caption"] == "cat. black dog."
    for region in grounding["regions"]:
        ((start, end),) = region["tokens_positive"]
        assert grounding["caption"][start:end] == region["phrase"]
    assert [region["bbox"] for region in grounding["regions"]] == [[2.5, 3, 12, 23.25], [0, 0, 40, 30]]


def test_image_paths(odvg, records):
    path, _ = records

    def names(**options):
        export_odvg(path, odvg.file, **options)
        return [json.loads(line)["filename"] for line in odvg.file.read_text().splitlines()]

    assert names()[0] == "img/0.jpg"
    assert names(image_paths="absolute")[0] == str(odvg.root / "img" / "0.jpg")
    record = DetectionRecord((str(odvg.root / "img" / "0.jpg"), "further.jpg"), 40, 30, ())
    write_records([record], path)
    assert names(image_root=odvg.root / "img") == ["0.jpg"]
    report = export_odvg(path, odvg.file)
    assert report.notes == {"record with further images, left out": 1}
    with pytest.raises(ValueError, match=r"records.jsonl:1: the image .*0.jpg lies outside the image root"):
        names(image_root=odvg.root / "elsewhere")
    assert names(image_root=odvg.root / "elsewhere", image_paths="absolute")[0].endswith("img/0.jpg")


def test_export_writes_all_or_nothing(odvg, records):
    path, _ = records
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(ValueError, match="records.jsonl:5"):
        export_odvg(path, odvg.file)
    for options, message in [
        ({"out": path}, "is the file that is read"),
        ({"out": odvg.root}, "is a folder"),
        ({"label_map": odvg.root}, "label_map = .*is a folder"),
        ({"label_map": "map.json", "field": "grounding"}, "label_map: belongs to"),
        ({"field": "boxes"}, "field = 'boxes'"),
        ({"image_paths": "short"}, "image_paths = 'short'"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_odvg(path, **{"out": odvg.file} | options)
    assert sorted(each.name for each in odvg.root.iterdir()) == ["img", "records.jsonl"]


def test_commands(odvg, records, capsys):
    path, expected = records
    root = str(odvg.root)
    assert cli.main(["data", "export", "odvg", "--data", str(path), "--out", str(odvg.file)]) == 0
    assert "polygon as its box" in capsys.readouterr().out
    command = ["data", "convert", "odvg", "--annotations", str(odvg.file), "--images", root, "--out", str(odvg.out)]
    assert cli.main([*command, "--label_map", str(odvg.root / "odvg_label_map.json")]) == 0
    assert [[(item.desc, item.bbox_2d) for item in record.objects] for record in read_records(odvg.out)] == expected
    assert cli.main([*command, "--field", "grounding"]) == 2
    assert "odvg.jsonl:1: grounding: must be a JSON object" in capsys.readouterr().err

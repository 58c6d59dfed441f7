# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.voc."""

import json
from pathlib import Path

import pytest
from PIL import Image

from coordexp_trl.datasets.conversion import ConversionReport, image_reference
from coordexp_trl.datasets.voc import convert_voc
from coordexp_trl.images import check_images
from coordexp_trl.records import read_records


def obj(xmin, ymin, xmax, ymax, name="cat", extra=""):
    """XML of one object; a value of `None` leaves the field out."""
    values = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
    fields = "".join(f"<{key}>{value}</{key}>" for key, value in values.items() if value is not None)
    name = "" if name is None else f"<name>{name}</name>"
    return f"<object>{name}{extra}<bndbox>{fields}</bndbox></object>"


def size(width, height):
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


SIZE = size(40, 30)


@pytest.fixture
def voc(tmp_path):
    """A folder with images a.jpg, b.jpg, ... of 40 x 30 pixels, and a function that writes XML and converts."""
    (tmp_path / "xml").mkdir()
    (tmp_path / "img").mkdir()

    class Voc:
        root = tmp_path
        out = tmp_path / "out.jsonl"

        def add(self, name, *objects, size=SIZE, filename=None, image=True, text=None):
            filename = f"{name}.jpg" if filename is None else filename
            body = f"<filename>{filename}</filename>{size}{''.join(objects)}"
            (tmp_path / "xml" / f"{name}.xml").write_text(text or f"<annotation>{body}</annotation>")
            if image:
                self.image(f"{name}.jpg")

        def image(self, name, size=(40, 30)):
            Image.new("RGB", size).save(tmp_path / "img" / name)

        def convert(self, **options):
            return convert_voc(tmp_path / "xml", tmp_path / "img", self.out, **options)

        def boxes(self, **options):
            report = self.convert(**options)
            (record,) = read_records(self.out)
            return [item.bbox_2d for item in record.objects], report

    return Voc()


# Box in the XML file, options, box in the record or None, what the report says.
BOXES = [
    # continuous edges are taken as they are
    ((3, 4, 13, 24), {}, (3, 4, 13, 24), {}),
    ((0, 0, 40, 30), {}, (0, 0, 40, 30), {}),
    ((3.5, 4.25, 13, 24), {}, (3.5, 4.25, 13, 24), {}),
    # 1-based inclusive indices: the whole image, and one pixel
    ((1, 1, 40, 30), {"one_based": True}, (0, 0, 40, 30), {}),
    ((7, 8, 7, 8), {"one_based": True}, (6, 7, 7, 8), {}),
    # a 0-based file read as 1-based shows itself by clipping
    ((0, 0, 40, 30), {"one_based": True}, (0, 0, 40, 30), {"notes": {"box clipped to the image": 1}}),
    # clipped
    ((-5, 4, 13, 99), {}, (0, 4, 13, 30), {"notes": {"box clipped to the image": 1}}),
    # left out
    ((7, 8, 7, 8), {}, None, {"dropped": {"degenerate box": 1}}),
    ((7, 8, 7, 18), {}, None, {"dropped": {"degenerate box": 1}}),
    ((9, 8, 7, 18), {}, None, {"dropped": {"inverted box": 1}}),
    ((41, 8, 50, 18), {}, None, {"dropped": {"box outside the image": 1}}),
    ((40, 8, 50, 18), {}, None, {"dropped": {"box outside the image": 1}}),
]


@pytest.mark.parametrize(("box", "options", "expected", "found"), BOXES)
def test_boxes(voc, box, options, expected, found):
    voc.add("a", obj(*box))
    boxes, report = voc.boxes(**options)
    assert boxes == ([] if expected is None else [expected])
    out = int(expected is not None)
    assert report == ConversionReport(images=1, objects_in=1, objects_out=out, **found)


def test_record_holds_what_the_files_say(voc):
    voc.add("b", obj(1, 2, 3, 4, " black\n cat "), obj(5, 6, 7, 8, "dog"))
    voc.add("a")  # an image without objects is kept
    report = voc.convert()
    lines = [json.loads(line) for line in voc.out.read_text().splitlines()]
    assert lines == [
        {"images": ["img/a.jpg"], "width": 40, "height": 30, "objects": []},
        {
            "images": ["img/b.jpg"],
            "width": 40,
            "height": 30,
            "objects": [{"desc": "black cat", "bbox_2d": [1, 2, 3, 4]}, {"desc": "dog", "bbox_2d": [5, 6, 7, 8]}],
        },
    ]
    check_images(read_records(voc.out), show_progress=False)
    assert report.rows() == [("images", 2), ("objects in", 2), ("objects out", 2)]


def test_parts_of_an_object_are_not_objects(voc):
    part = "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
    voc.add("a", obj(3, 4, 13, 24, extra=part))
    assert voc.boxes()[0] == [(3, 4, 13, 24)]


def test_difficult_objects(voc):
    voc.add("a", obj(1, 1, 5, 5, extra="<difficult>1</difficult>"), obj(2, 2, 6, 6, extra="<difficult>0</difficult>"))
    boxes, report = voc.boxes()
    assert len(boxes) == 2 and report.notes == {"difficult object kept": 1}
    boxes, report = voc.boxes(skip_difficult=True)
    assert boxes == [(2, 2, 6, 6)] and report.dropped == {"difficult": 1} and not report.notes


def test_split_file_decides_which_and_in_which_order(voc):
    for name in "abc":
        voc.add(name)
    split = voc.root / "train.txt"
    split.write_text("c\n\n  a  \n")
    assert voc.convert(split_file=split).images == 2
    assert [record.images[0] for record in read_records(voc.out)] == ["img/c.jpg", "img/a.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nzebra\n", r"train.txt:2: id 'zebra' has no file zebra.xml"),
        ("a.jpg\n", r"train.txt:1: id 'a.jpg'.*without suffix"),
        ("../xml/a\n", r"train.txt:1: id '../xml/a'"),
        ("a\nb\na\n", r"train.txt:3: id 'a' stands in line 1 already"),
        ("\n\n", "holds no id"),
    ],
)
def test_bad_split_files(voc, text, message):
    voc.add("a")
    voc.add("b")
    (voc.root / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        voc.convert(split_file=voc.root / "train.txt")
    with pytest.raises(ValueError, match="missing.txt"):
        voc.convert(split_file=voc.root / "missing.txt")


@pytest.mark.parametrize(
    ("filename", "files", "expected"),
    [
        ("a.png", ["a.png", "a.jpg"], "a.png"),  # the suffix comes from <filename>
        ("a", ["a.jpeg"], "a.jpeg"),  # no suffix
        ("", ["a.png"], "a.png"),  # no <filename>
        ("a.jpg", ["a.JPG"], "a.JPG"),
        ("old.jpg", ["a.jpg", "old.jpg"], "a.jpg"),  # stale after a renaming
        ("photo 1.jpg", ["photo 1.jpg"], "photo 1.jpg"),  # another name on purpose
        (r"C:\data\a.bmp", ["a.bmp"], "a.bmp"),  # only the name of a path counts
        ("../secret.jpg", ["secret.jpg"], "secret.jpg"),
    ],
)
def test_image_of_an_annotation(voc, filename, files, expected):
    voc.add("a", filename=filename, image=False)
    for file in files:
        voc.image(file)
    voc.convert()
    assert read_records(voc.out)[0].images == (f"img/{expected}",)


@pytest.mark.parametrize("xml", ["", size(0, 0), size(40, 0), "<size><width></width></size>"])
def test_size_missing_in_the_xml_file_is_taken_from_the_image(voc, xml):
    voc.add("a", size=xml)
    report = voc.convert()
    record = read_records(voc.out)[0]
    assert (record.width, record.height) == (40, 30)
    assert report.notes == {"XML file without image size": 1}


# Arguments of `add`, and what the message must hold besides the file.
BAD = [
    ({"objects": [obj(1, 1, 5, 5), obj(1, 1, None, 5)]}, r"object\[1\].bndbox.xmax: is missing"),
    ({"objects": ["<object><name>cat</name></object>"]}, r"object\[0\].bndbox.xmin: is missing"),
    ({"objects": [obj(1, 1, "five", 5)]}, r"object\[0\].bndbox.xmax = 'five': must be a number"),
    ({"objects": [obj(1, "nan", 5, 5)]}, r"object\[0\].bndbox.ymin = 'nan': must be a number"),
    ({"objects": [obj(1, 1, 5, "inf")]}, r"object\[0\].bndbox.ymax = 'inf'"),
    ({"objects": [obj(1, 1, 5, "")]}, r"object\[0\].bndbox.ymax = ''"),
    ({"objects": [obj(1, 1, 5, 5, name=None)]}, r"object\[0\].name: is missing or blank"),
    ({"objects": [obj(1, 1, 5, 5, name="  ")]}, r"object\[0\].name: is missing or blank"),
    ({"size": size(50, 30)}, r"size = 50 x 30, but .*a\.jpg has 40 x 30 pixels"),
    ({"size": size(30, 40)}, r"size = 30 x 40, .*EXIF"),
    ({"size": size("wide", 30)}, r"size.width = 'wide'"),
    ({"text": "<annotation><object></annotation>"}, "not well-formed XML .*line 1"),
    ({"text": " "}, "not well-formed XML"),
    ({"text": "<?xml version='1.0' encoding='klingon'?><annotation/>"}, "not well-formed XML"),
    ({"text": "<html/>"}, "root element is <html>, must be <annotation>"),
    ({"image": False}, r"no image for filename = 'a.jpg' in .*looked for a\.jpg, a\.jpeg, a\.png"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_annotations_are_named_and_nothing_is_written(voc, arguments, message):
    arguments = dict(arguments)
    voc.add("a", *arguments.pop("objects", []), **arguments)
    voc.add("0")  # a good one before it
    with pytest.raises(ValueError, match=r"a\.xml.*" + message):
        voc.convert()
    assert sorted(path.name for path in voc.root.iterdir()) == ["img", "xml"]


def test_broken_image(voc):
    voc.add("a")
    (voc.root / "img" / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image.*needed by .*a\.xml"):
        voc.convert()


def test_bad_folders(voc, tmp_path):
    with pytest.raises(ValueError, match="holds no .xml file"):
        voc.convert()
    (tmp_path / "xml" / "._a.xml").write_bytes(b"\0")  # a left-over of macOS is no annotation
    voc.add("a")
    voc.convert()
    with pytest.raises(ValueError, match="annotations = .*nowhere.*no such folder"):
        convert_voc(tmp_path / "nowhere", tmp_path / "img", voc.out)
    with pytest.raises(ValueError, match="images = .*nowhere.*no such folder"):
        convert_voc(tmp_path / "xml", tmp_path / "nowhere", voc.out)
    with pytest.raises(ValueError, match="out = .*is a folder"):
        convert_voc(tmp_path / "xml", tmp_path / "img", tmp_path)


def test_failure_keeps_an_older_output(voc):
    voc.out.write_text("old")
    voc.add("a", obj(1, 1, None, 5))
    with pytest.raises(ValueError):
        voc.convert()
    assert voc.out.read_text() == "old"


def test_images_outside_the_output_folder_are_absolute(voc, monkeypatch):
    voc.add("a")
    monkeypatch.chdir(voc.root)
    out = Path("records/train.jsonl")
    convert_voc("xml", "img", out)
    (record,) = read_records(out)
    assert record.images == ((voc.root / "img" / "a.jpg").as_posix(),)
    check_images([record], show_progress=False)
    assert image_reference(Path("img/a.jpg"), Path("x.jsonl")) == "img/a.jpg"
    assert image_reference(voc.root / "img/a.jpg", Path("img/x.jsonl")) == "a.jpg"
    assert image_reference(Path("img-2/a.jpg"), Path("img/x.jsonl")).startswith("/")  # a common prefix is no folder


def test_report_notices_a_lost_object():
    with pytest.raises(AssertionError):
        ConversionReport(objects_in=2, objects_out=1).check()


@pytest.mark.shared_data
def test_bccd(tmp_path, shared_data):
    folder = shared_data / "bccd"
    report = convert_voc(folder / "Annotations", folder / "JPEGImages", tmp_path / "bccd.jsonl")
    assert report == ConversionReport(
        images=364, objects_in=4888, objects_out=4886, dropped={"degenerate box": 2}, notes={}
    )
    records = read_records(tmp_path / "bccd.jsonl")
    assert {(record.width, record.height) for record in records} == {(640, 480)}
    splits = [
        convert_voc(
            folder / "Annotations",
            folder / "JPEGImages",
            tmp_path / f"{name}.jsonl",
            split_file=folder / "ImageSets" / "Main" / f"{name}.txt",
        )
        for name in ("trainval", "test")
    ]
    assert sum(split.images for split in splits) == 364
    assert sum(split.objects_out for split in splits) == 4886

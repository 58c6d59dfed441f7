# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.visual_genome."""

import json

import pytest
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.visual_genome import convert_visual_genome
from coordexp_trl.records import read_records

WIDTH, HEIGHT = 40, 30
HOST = "https://cs.stanford.edu/people/rak248/"


class Genome:
    """`image_data.json`, `objects.json` and one image, id 1, in `VG_100K_2`, and their conversion to `out.jsonl`."""

    def __init__(self, root):
        self.root, self.out = root, root / "out.jsonl"
        self.image("VG_100K_2/1.jpg")
        self.data = [image_data(1, "VG_100K_2/1.jpg")]
        self.objects = [{"image_id": 1, "objects": []}]

    def image(self, name, size=(WIDTH, HEIGHT)):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)

    def write(self):
        for name, content in (("image_data", self.data), ("objects", self.objects)):
            (self.root / f"{name}.json").write_text(json.dumps(content))

    def convert(self, kind="objects", **options):
        self.write()
        given = {kind: self.root / "objects.json"} | options
        return convert_visual_genome(self.root / "image_data.json", self.root, self.out, **given)

    def add(self, *items):
        self.objects[0]["objects"] += items

    def records(self, **options):
        report = self.convert(**options)
        return read_records(self.out), report


def image_data(image_id, name, **fields):
    return {"image_id": image_id, "width": WIDTH, "height": HEIGHT, "url": HOST + name, "coco_id": None} | fields


def item(x=2, y=3, w=10, h=20, names=("cat",), **fields):
    """An object as in `objects.json`."""
    return {"object_id": 5, "x": x, "y": y, "w": w, "h": h, "names": list(names), "synsets": []} | fields


@pytest.fixture
def genome(tmp_path):
    return Genome(tmp_path)


# The object, descriptions and boxes in the record, what the report says.
OBJECTS = [
    (item(), [("cat", (2, 3, 12, 23))], {}),
    (
        item(names=["  tabby \n cat ", "cat"]),
        [("tabby cat", (2, 3, 12, 23))],
        {"notes": {"object with further names": 1}},
    ),
    (item(x=-1, y=5, w=60), [("cat", (0, 5, 40, 25))], {"notes": {"box clipped to the image": 1}}),
    (item(w=0), [], {"dropped": {"degenerate box": 1}}),
    (item(h=-2), [], {"dropped": {"inverted box": 1}}),
    (item(x=50), [], {"dropped": {"box outside the image": 1}}),
    (item(x=float("nan")), [], {"dropped": {"coordinate not a finite number": 1}}),
    (item(w=10**400), [], {"dropped": {"coordinate not a finite number": 1}}),
    (item(names=[" "]), [], {"dropped": {"no description": 1}}),
    (item(names=[]), [], {"dropped": {"no description": 1}}),
]


@pytest.mark.parametrize("entry, expected, counts", OBJECTS)
def test_objects(genome, entry, expected, counts):
    genome.add(entry)
    (record,), report = genome.records()
    assert [(found.desc, found.bbox_2d) for found in record.objects] == expected
    assert record.images == ("VG_100K_2/1.jpg",) and record.metadata == {"image_id": 1}
    assert report == ConversionReport(1, 1, len(expected), counts.get("dropped", {}), counts.get("notes", {}))


def test_regions(genome):
    region = {"region_id": 7, "image_id": 1, "phrase": "a cat on a mat", "x": 2, "y": 3, "width": 10, "height": 20}
    genome.objects = [{"id": 1, "regions": [region]}]
    (record,), _ = genome.records(kind="regions")
    assert [(found.desc, found.bbox_2d) for found in record.objects] == [("a cat on a mat", (2, 3, 12, 23))]


def test_images_in_one_folder_and_old_ids(genome):
    genome.image("0.jpg")
    genome.data = [{"id": 0, "width": WIDTH, "height": HEIGHT, "url": HOST + "VG_100K/0.jpg"}]
    genome.objects = [{"id": 0, "objects": [item()]}]
    (record,), _ = genome.records()
    assert record.images == ("0.jpg",) and record.metadata == {"image_id": 0}


def data(**fields):
    return lambda genome: genome.data[0].update(fields)


def objects(*items):
    return lambda genome: genome.add(*items)


# What is changed, what the error says.
MISTAKES = [
    (data(width=HEIGHT, height=WIDTH), r"objects.json: \[0\]: .*40 x 30 pixels.*30 x 40.*swapped"),
    (data(width="40"), r"image_data.json: \[0\].width = '40': must be an integer"),
    (data(url=None), r"image_data.json: \[0\].url = None: must be text"),
    (data(url=HOST + "../1.jpg"), r"\[0\].url = '../1.jpg': leaves the image folder"),
    (data(url=HOST + "VG_100K/3.jpg"), r"3.jpg: no such image, needed by .*objects.json: \[0\]"),
    (data(image_id=2), r"objects.json: \[0\]: the image 1 is missing in .*image_data.json"),
    (data(image_id=True), r"\[0\].image_id = True: must be an integer"),
    (
        lambda genome: genome.data.append(genome.data[0]),
        r"image_data.json: \[1\]: the image 1 stands in this file twice",
    ),
    (lambda genome: genome.objects.append(genome.objects[0]), r"objects.json: \[1\]: the image 1 is annotated twice"),
    (lambda genome: genome.objects.append([]), "must hold a list of JSON objects"),
    (lambda genome: genome.objects[0].pop("objects"), r"\[0\].objects: must be a list"),
    (objects(item(), item(x="2")), r"\[0\].objects\[1\].x: '2' is no number"),
    (objects(item(h=None)), r"objects\[0\].h: None is no number"),
    (objects(item(x=True)), r"objects\[0\].x: True is no number"),
    (objects(item(names=[3])), r"objects\[0\]: names = \[3\]: must be text"),
    (objects(item(names=["\ud800"])), r"objects.json: \[0\]: desc.*surrogate"),
    (objects([]), r"objects\[0\] = \[\]: must be a JSON object"),
    (
        objects(*[item(x=0.1, y=0.1, w=0.2 + i / 99, h=0.5) for i in range(12)]),
        "look normalised.*Visual Genome writes",
    ),
]


@pytest.mark.parametrize("change, message", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(genome, change, message):
    change(genome)
    with pytest.raises(ValueError, match=message):
        genome.convert()
    assert list(genome.root.glob("*out*")) == []


def test_missing_images_can_be_left_out(genome):
    genome.add(item())
    genome.data.append(image_data(2, "VG_100K/2.jpg"))
    genome.objects.append({"image_id": 2, "objects": [item(), item()]})
    report = genome.convert(skip_missing_images=True)
    assert report == ConversionReport(1, 3, 1, {"image missing": 2}, {"image missing": 1})


def test_files_that_cannot_be_read(genome):
    genome.write()
    for content, message in [(b"\xff[]", "objects = .*utf-8"), (b"[\n{]", "objects.json:2: column 2: invalid JSON")]:
        (genome.root / "objects.json").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            convert_visual_genome(
                genome.root / "image_data.json", genome.root, genome.out, objects=genome.root / "objects.json"
            )


def test_command(genome, capsys):
    genome.add(item())
    genome.write()
    (genome.root / "names.yaml").write_text("cat: tom cat")
    command = ["data", "convert", "visual-genome", "--image-data", str(genome.root / "image_data.json")]
    command += ["--images", str(genome.root), "--out", str(genome.out), "--rename", str(genome.root / "names.yaml")]
    assert cli.main([*command, "--objects", str(genome.root / "objects.json")]) == 0
    assert f"wrote {genome.out}" in capsys.readouterr().out
    assert read_records(genome.out)[0].objects[0].desc == "tom cat"
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "--objects --regions" in capsys.readouterr().err

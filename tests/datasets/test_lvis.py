# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.lvis."""

import json

import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, CocoFiles, annotation

from coordexp_trl.datasets.lvis import convert_lvis
from coordexp_trl.images import check_images
from coordexp_trl.records import read_records

FEDERATED = {"neg_category_ids": [2, 9], "not_exhaustive_category_ids": [1]}
URL = "http://images.cocodataset.org/train2017/000000391895.jpg"


@pytest.fixture
def lvis(tmp_path):
    files = CocoFiles(tmp_path, convert_lvis)
    files.content["images"][0] |= FEDERATED
    for category, frequency in zip(files.content["categories"], "fr", strict=True):
        category["frequency"] = frequency
    return files


def test_federated_fields_are_kept(lvis):
    lvis.add_image(7, "b.jpg", neg_category_ids=[], not_exhaustive_category_ids=[])
    lvis.add(annotation(category_id=2), annotation((0, 0, 0, 1)), annotation(segmentation=[SQUARE]))
    records, report = lvis.records(geometry="polygon")
    assert [record.metadata for record in records] == [
        {"image_id": 1, "category_ids": [2, 1], **FEDERATED, "frequencies": ["r", "f"]},
        {
            "image_id": 7,
            "category_ids": [],
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
            "frequencies": [],
        },
    ]
    assert [item.is_polygon for item in records[0].objects] == [False, True]
    assert report.dropped == {"degenerate box": 1}


# Fields of the image, files in the folder, the one that is taken.
FILES = [
    ({"coco_url": URL}, ["train2017/000000391895.jpg"], "train2017/000000391895.jpg"),  # LVIS 1.0
    ({"coco_url": URL}, ["000000391895.jpg"], "000000391895.jpg"),
    ({"coco_url": URL}, ["000000391895.jpg", "train2017/000000391895.jpg"], "train2017/000000391895.jpg"),
    ({"coco_url": URL + "?size=1"}, ["000000391895.jpg"], "000000391895.jpg"),
    ({"coco_url": "http://host/a%20b.jpg"}, ["a b.jpg"], "a b.jpg"),
    # LVIS 0.5, with the images of 2014 or of 2017
    ({"file_name": "COCO_train2014_1.jpg", "coco_url": URL}, ["COCO_train2014_1.jpg"], "COCO_train2014_1.jpg"),
    ({"file_name": "COCO_train2014_1.jpg", "coco_url": URL}, ["000000391895.jpg"], "000000391895.jpg"),
]


@pytest.mark.parametrize(("fields", "files", "expected"), FILES)
def test_image_files(lvis, fields, files, expected):
    for name in files:
        (lvis.img / name).parent.mkdir(exist_ok=True)
        lvis.image(name)
    lvis.content["images"] = [{"id": 1, "width": WIDTH, "height": HEIGHT, **FEDERATED, **fields}]
    records, _ = lvis.records()
    assert records[0].images == (f"img/{expected}",)
    for name in files:
        (lvis.img / name).unlink()
    with pytest.raises(ValueError, match=r"\(id 1\): no such file in .*\.jpg"):
        lvis.convert()


def test_a_url_cannot_leave_the_folder(lvis):
    del lvis.content["images"][0]["file_name"]
    lvis.content["images"][0]["coco_url"] = "http://host/a/../coco.json"
    with pytest.raises(ValueError, match="leaves the image folder"):
        lvis.convert()


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("images", "neg_category_ids", None, r"images\[0\] \(id 1\)\.neg_category_ids = None: must be a list"),
        ("images", "not_exhaustive_category_ids", ["1"], r"not_exhaustive_category_ids = \['1'\]: must be a list"),
        ("categories", "frequency", None, r"category 1 \(cat\)\.frequency = None: must be 'r', 'c' or 'f'.*as COCO"),
        ("categories", "frequency", "x", r"frequency = 'x'"),
    ],
)
def test_federated_fields_are_needed(lvis, where, key, value, message):
    lvis.content[where][0][key] = value
    with pytest.raises(ValueError, match=message):
        lvis.convert()
    assert not lvis.out.exists()


@pytest.mark.shared_data
def test_lvis_sample(tmp_path, shared_data):
    folder = shared_data / "lvis_val_100"
    source, out = folder / "lvis_val_100.json", tmp_path / "out.jsonl"
    content = json.loads(source.read_text())
    for geometry, objects in (("box", 977), ("polygon", 977), ("parts", 1135)):
        report = convert_lvis(source, None, out, geometry=geometry)
        assert (report.images, report.objects_in, report.objects_out) == (100, objects, objects)
        assert report.notes["image without annotations"] == 7
    records = read_records(out)
    for image, record in zip(content["images"], records, strict=True):
        assert record.images == (image["file_name"],) and record.metadata["image_id"] == image["id"]
        assert record.metadata["neg_category_ids"] == image["neg_category_ids"]
        assert record.metadata["not_exhaustive_category_ids"] == image["not_exhaustive_category_ids"]
    names = {category["id"]: (category["name"], category["frequency"]) for category in content["categories"]}
    written = [
        (item.desc, frequency) == names[category_id]
        for record in records
        for item, category_id, frequency in zip(
            record.objects, record.metadata["category_ids"], record.metadata["frequencies"], strict=True
        )
    ]
    assert len(written) == 1135 and all(written)

    with pytest.raises(ValueError, match="99 of 100 images cannot be used"):
        convert_lvis(source, folder / "images", out)
    report = convert_lvis(source, folder / "images", out, skip_missing_images=True)
    assert (report.images, report.objects_in, report.objects_out) == (1, 977, 25)
    assert report.dropped == {"image missing": 952} and report.notes["image missing"] == 99
    check_images(read_records(out), show_progress=False)

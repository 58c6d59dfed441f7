# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.coco_results."""

import json

import pytest

from coordexp_trl.inference.coco_results import coco_results, ids_of_records, read_coco_file
from coordexp_trl.predictions import ImagePrediction, PredictedObject
from coordexp_trl.records import DetectionObject, DetectionRecord


def record(name, descs=(), **metadata):
    objects = tuple(DetectionObject(desc=desc, bbox_2d=(0, 0, 5, 5)) for desc in descs)
    return DetectionRecord((name,), 100, 100, objects=objects, metadata=metadata or None)


def prediction(name, *descs, bbox=(10.0, 20.0, 30.5, 60.0), score=0.5):
    return ImagePrediction(name, 100, 100, tuple(PredictedObject(desc, bbox, score) for desc in descs))


def test_ids_of_the_metadata():
    records = [record("a.jpg", ["cat", "dog"], image_id=7, category_ids=[3, 18]), record("b.jpg", image_id=2)]
    predictions = [prediction("a.jpg", "Cat", "zebra"), prediction("b.jpg", "dog", "ape")]
    ids = ids_of_records(records, predictions)
    assert ids.images == {"a.jpg": 7, "b.jpg": 2}
    # descriptions without id get the next free ones; "Cat" is cat
    assert ids.categories == {"cat": 3, "dog": 18, "ape": 19, "zebra": 20}
    results = coco_results(predictions, ids)
    assert [(row["image_id"], row["category_id"]) for row in results] == [(7, 3), (7, 20), (2, 18), (2, 19)]
    assert results[0]["bbox"] == [10.0, 20.0, 20.5, 40.0] and results[0]["score"] == 0.5


@pytest.mark.parametrize("image_ids", [(None, None), (1, 1), (5, "x"), (True, 2)])
def test_numbers_from_one_without_ids(image_ids):
    names = ("a.jpg", "b.jpg")
    records = [record(name, image_id=number) for name, number in zip(names, image_ids, strict=True)]
    ids = ids_of_records(records, [prediction("a.jpg", "dog", "cat")])
    assert ids.images == {"a.jpg": 1, "b.jpg": 2} and ids.categories == {"cat": 1, "dog": 2}


def test_contradicting_category_ids():
    records = [record("a.jpg", ["cat", "dog"], category_ids=[3, 3])]
    ids = ids_of_records(records, [])
    assert ids.categories == {"cat": 1, "dog": 2} and sum(ids.notes.values()) == 2


def test_objects_without_score_and_inverted_boxes():
    predictions = [prediction("a.jpg", "cat", bbox=(30.0, 60.0, 10.0, 20.0), score=None)]
    ids = ids_of_records([record("a.jpg")], predictions)
    (row,) = coco_results(predictions, ids)
    assert row["score"] == 1.0 and row["bbox"] == [10.0, 20.0, 20.0, 40.0]
    assert ids.notes == {"COCO results with score 1.0: the model gave none": 1}


@pytest.fixture
def coco_file(tmp_path):
    path = tmp_path / "coco.json"
    images = [
        {"id": 100, "file_name": "val/a.jpg"},
        {"id": 101, "file_name": "train/a.jpg"},
        {"id": 102, "file_name": "b.jpg"},
    ]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}]}))
    return path


def test_ids_of_a_coco_file(coco_file):
    names = ["images/val/a.jpg", "x/b.jpg", "a.jpg", "c.jpg"]
    predictions = [prediction(name, "dog", "zebra") for name in names]
    ids = read_coco_file(coco_file).apply(ids_of_records([record(name) for name in names], predictions))
    assert ids.images == {"images/val/a.jpg": 100, "x/b.jpg": 102}  # "a.jpg" may be two images, "c.jpg" is none
    results = coco_results(predictions, ids)
    assert [(row["image_id"], row["category_id"]) for row in results] == [(100, 5), (102, 5)]
    assert sorted(ids.notes.values()) == [2, 2]  # two images, and the zebras of the others


def test_a_coco_file_without_images(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text(json.dumps({"categories": [{"id": 9, "name": "traffic_light"}]}))
    predictions = [prediction("a.jpg", "traffic light")]
    ids = read_coco_file(path).apply(ids_of_records([record("a.jpg", image_id=4)], predictions))
    assert [(row["image_id"], row["category_id"]) for row in coco_results(predictions, ids)] == [(4, 9)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "categories is missing"),
        ({"categories": {}}, "categories is missing, or no list"),
        ({"categories": [{"id": 1}]}, r"categories\[0\].name"),
        ({"categories": [], "images": [{"file_name": "a.jpg"}]}, r"images\[0\] = .*must be a JSON object with an id"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_coco_file(tmp_path / "x.json")

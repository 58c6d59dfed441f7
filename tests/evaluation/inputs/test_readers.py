# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of reading ground truth, predictions and synonyms for evaluation, told apart by what the files hold."""

import json
import math

import numpy as np
import pytest

from coordexp_trl.datasets.coco import convert_coco
from coordexp_trl.datasets.lvis import convert_lvis
from coordexp_trl.evaluation.inputs.ground_truth import read_ground_truth
from coordexp_trl.evaluation.inputs.predicted import read_predicted
from coordexp_trl.evaluation.inputs.synonyms import read_synonyms

SIZE = {"width": 100, "height": 50}
RECORD = {"images": ["a.jpg"], **SIZE, "objects": [{"desc": "cat", "bbox_2d": [10, 20, 30, 40]}]}
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", **SIZE}, {"id": 0, "file_name": "b.jpg", **SIZE}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 3, "bbox": [10, 20, 20, 20], "area": 300, "iscrowd": 0},
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 50], "area": 5000, "iscrowd": 1},
    ],
}
RESULT = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


def write(folder, name, *values, indent=None):
    path = folder / name
    path.write_text("\n".join(json.dumps(value, indent=indent) for value in values))
    return path


def test_records(tmp_path):
    tokens = [f"<|coord_{k}|>" for k in (0, 0, 999, 999)]
    polygon = {"desc": "dog", "poly": [0, 0, 10, 0, 0, 10]}
    rows = [RECORD, {**RECORD, "images": ["b.jpg"], "objects": [{"desc": "cat", "bbox_2d": tokens}]}]
    rows += [{**RECORD, "images": ["c.jpg"], "objects": [polygon, *RECORD["objects"]]}]
    truth = read_ground_truth(write(tmp_path, "data.json", *rows))  # whatever the name
    assert (truth.kind, [image.name for image in truth.images]) == ("records", ["a.jpg", "b.jpg", "c.jpg"])
    assert truth.images[0].boxes.tolist() == [[10, 20, 30, 40]] and truth.images[0].path == str(tmp_path / "a.jpg")
    assert truth.images[1].boxes == pytest.approx(np.array([[0, 0, 100, 50]]), abs=0.2)
    assert truth.images[2].boxes[0].tolist() == [0, 0, 10, 10] and list(truth.images[2].areas) == [50, 400]
    assert read_ground_truth(write(tmp_path, "one", RECORD)).kind == "records"


@pytest.mark.parametrize("indent", [None, 2])
def test_coco(tmp_path, indent):
    truth = read_ground_truth(write(tmp_path, "gt.jsonl", COCO, indent=indent), image_root=tmp_path)
    first, second = truth.images
    assert (truth.kind, first.image_id, second.image_id, truth.categories) == ("COCO", 7, 0, {3: "cat"})
    assert first.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 100, 50]]
    assert (list(first.crowd), list(first.areas), first.path) == ([False, True], [300, 5000], str(tmp_path / "a.jpg"))
    assert len(second.boxes) == 0 and second.absent is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [*COCO["images"], {"id": 8, "file_name": "a.jpg", **SIZE}]}, r"images\[2\].*'a.jpg' is that of"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 0, "height": 5}]}, r"images\[0\].*width = 0"),
        ({"annotations": [{**COCO["annotations"][0], "bbox": [0, 0, -1, 5]}]}, "must not be negative"),
        ({"annotations": [{**COCO["annotations"][0], "bbox": [0, 0, math.nan, 5]}]}, "must be finite"),
        ({"annotations": [{**COCO["annotations"][0], "bbox": None}]}, "neither bbox nor segmentation"),
        ({"annotations": [{**COCO["annotations"][0], "area": "big"}]}, "area = 'big'"),
    ],
)
def test_bad_annotations(tmp_path, change, message):
    images = {"images": COCO["images"][:1], "annotations": []}
    with pytest.raises(ValueError, match=message):
        read_ground_truth(write(tmp_path, "gt.json", {**COCO, **images, **change}))


def test_an_image_twice_names_both_lines(tmp_path):
    path = write(tmp_path, "gt.jsonl", RECORD, {**RECORD, "images": ["./a.jpg"]})
    with pytest.raises(ValueError, match=r"gt.jsonl:2: .* is that of .*gt.jsonl:1"):
        read_ground_truth(path)


def test_ground_truth_that_is_something_else(tmp_path):
    with pytest.raises(ValueError, match="list of results"):
        read_ground_truth(write(tmp_path, "gt.json", [RESULT]))
    with pytest.raises(ValueError, match="is empty"):
        read_ground_truth(write(tmp_path, "empty.json"))
    with pytest.raises(ValueError, match="no such file"):
        read_ground_truth(tmp_path / "nowhere.json")


def test_predictions(tmp_path):
    truth = read_ground_truth(write(tmp_path, "gt.json", COCO))
    item = {"desc": "cat", "bbox_2d": [30, 40, 10, 20], "score": math.nan}
    row = {"image": "a.jpg", **SIZE, "objects": [item], "finish_reason": "length", "dropped": {"no box": 2}}
    for rows in ([row], [row, {**row, "image": "b.jpg", "objects": []}]):
        predicted = read_predicted(write(tmp_path, "p.json", *rows), truth)
        first = predicted.images[0]
        assert (predicted.kind, len(predicted.images), first.name) == ("predictions", len(rows), "a.jpg")
        assert first.boxes.tolist() == [[30, 40, 10, 20]] and math.isnan(first.scores[0])
        assert (first.size, first.finish_reason, first.dropped) == ((100, 50), "length", {"no box": 2})
    assert read_predicted(write(tmp_path, "empty.jsonl"), truth).images == []


def test_coco_results(tmp_path):
    truth = read_ground_truth(write(tmp_path, "gt.json", COCO))
    results = [RESULT, {**RESULT, "image_id": 0}, {**RESULT, "category_id": 99}]
    first, second = read_predicted(write(tmp_path, "r.json", results), truth).images
    assert (first.image_id, first.descs, first.scores) == (7, ["cat", "category 99"], [0.5, 0.5])
    assert first.boxes.tolist() == [[1, 2, 4, 6]] * 2 and second.image_id == 0
    assert read_predicted(write(tmp_path, "none.json", []), truth).images == []
    write(tmp_path, "r_ids.json", {"images": {"x/a.jpg": 7, "x/b.jpg": 0}, "categories": {"dog": 3}})
    first, second = read_predicted(tmp_path / "r.json", truth).images
    assert (first.name, second.name, first.descs) == ("x/a.jpg", "x/b.jpg", ["dog", "category 99"])


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([{**RESULT, "category_id": 99}], "none of the category ids .* 99"),
        ([{**RESULT, "bbox": [1, 2, 3]}], r"\[0\].bbox = \[1, 2, 3\]"),
        ([RESULT, {**RESULT, "image_id": None}], r"\[1\].image_id = None"),
        ([{**RESULT, "score": "high"}], r"\[0\].score: 'high'"),
        (COCO, "annotations, not predictions"),
    ],
)
def test_bad_results(tmp_path, results, message):
    truth = read_ground_truth(write(tmp_path, "gt.json", COCO))
    with pytest.raises(ValueError, match=message):
        read_predicted(write(tmp_path, "r.json", results), truth)


def test_results_need_ids(tmp_path):
    path = write(tmp_path, "r.json", [RESULT])
    with pytest.raises(ValueError, match="have ids, those of .* have none"):
        read_predicted(path, read_ground_truth(write(tmp_path, "gt.jsonl", RECORD)))
    with_ids = {**RECORD, "metadata": {"image_id": 7, "category_ids": [3]}}
    (image,) = read_predicted(path, read_ground_truth(write(tmp_path, "gt.jsonl", with_ids))).images
    assert image.descs == ["cat"]


def test_synonyms(tmp_path):
    path = tmp_path / "synonyms.yaml"
    path.write_text("Person: [man, Young_Woman]\ncouch:\n  - sofa\nyes: [no]\n")
    groups = {"person": "person", "man": "person", "young woman": "person", "couch": "couch", "sofa": "couch"}
    assert read_synonyms(path) == {**groups, "yes": "yes", "no": "yes"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("person: [man]\nboy: [Man]\n", r"yaml:2: 'Man' stands in .*yaml:1 already"),
        ("person: [man]\nman: [boy]\n", r"yaml:2: 'man' stands in"),
        ("a: [b]\nperson: man\n", r"yaml:2: 'person' must have a list"),
        ("person: [man, [boy]]\n", r"yaml:1: a nested list or mapping is no name"),
        ("person: [' ']\n", r"yaml:1: ' ' is no name"),
        ("- person\n", "must hold names"),
        ("", "must hold names"),
        ("person: [man\n", "not valid YAML"),
    ],
)
def test_bad_synonyms(tmp_path, content, message):
    path = tmp_path / "synonyms.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_synonyms(path)


@pytest.mark.shared_data
def test_real_annotations_and_their_records_agree(shared_data, tmp_path):
    for source, convert, kind in (
        ("coco_permissive/instances_val2017.json", convert_coco, "COCO"),
        ("lvis_val_100/lvis_val_100.json", convert_lvis, "LVIS"),
    ):
        truth = read_ground_truth(shared_data / source)
        convert(shared_data / source, None, tmp_path / f"{kind}.jsonl")
        records = read_ground_truth(tmp_path / f"{kind}.jsonl")
        assert (truth.kind, records.kind) == (kind, "records")
        assert [image.image_id for image in truth.images] == [image.image_id for image in records.images]
        for image, record in zip(truth.images, records.images, strict=True):
            single = [k for k in range(len(image.descs)) if not (len(image.crowd) and image.crowd[k])]
            assert [image.descs[k] for k in single] == record.descs
            assert image.boxes[single] == pytest.approx(record.boxes, abs=0.6)  # clipped to the image
            assert (image.absent is None) == (record.absent is None) == (kind == "COCO")
        assert {**truth.frequencies, **records.frequencies} == truth.frequencies

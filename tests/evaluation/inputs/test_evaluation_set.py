# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Which prediction belongs to which image, and how odd input is treated: named errors, or counted notes."""

import json
import math

import numpy as np
import pytest

from coordexp_trl.evaluation.inputs.evaluation_set import read_evaluation_set
from coordexp_trl.evaluation.result_files import evaluate_set
from coordexp_trl.predictions import ImagePrediction, PredictedObject, prediction_row
from coordexp_trl.records import DetectionObject, DetectionRecord, write_records

BOX = (10.0, 20.0, 60.0, 90.0)


def objects(*boxes, desc="cat", score=0.5):
    return tuple(PredictedObject(desc, tuple(map(float, box)), score) for box in boxes)


@pytest.fixture
def compare(tmp_path):
    """Reads predictions and records that are given as Python objects."""

    def run(predictions, records=None, **options):
        if records is None:
            records = [DetectionRecord(["a.jpg"], 100, 100, [DetectionObject("cat", bbox_2d=BOX)])]
        write_records(records, tmp_path / "gt.jsonl")
        rows = map(prediction_row, predictions)  # NaN among them, which `write_predictions` refuses
        (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_evaluation_set(tmp_path / "predictions.jsonl", tmp_path / "gt.jsonl", **options)

    return run


def f1(found):
    return evaluate_set(found)[1]["metrics"]["f1"]


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "elsewhere/a.jpg", "ABSOLUTE"])
def test_images_are_found_by_path_or_by_a_name_that_only_one_has(compare, tmp_path, name):
    name = str(tmp_path / "a.jpg") if name == "ABSOLUTE" else name
    found = compare([ImagePrediction(name, 100, 100, objects(BOX))])
    assert f1(found) == 1 and not found.notes


def test_a_file_name_that_two_images_have_finds_none(compare):
    records = [DetectionRecord([f"{k}/a.jpg"], 100, 100, [DetectionObject("cat", bbox_2d=BOX)]) for k in "xy"]
    with pytest.raises(ValueError, match="none of its 1 images, the first 'z/a.jpg', is one of the 2"):
        compare([ImagePrediction("z/a.jpg", 100, 100, objects(BOX))], records)
    assert f1(compare([ImagePrediction(f"{k}/a.jpg", 100, 100, objects(BOX)) for k in "yx"], records)) == 1


def test_unknown_and_missing_images_are_counted(compare):
    records = [DetectionRecord([f"{k}.jpg"], 100, 100, [DetectionObject("cat", bbox_2d=BOX)]) for k in "ab"]
    found = compare([ImagePrediction(f"{k}.jpg", 100, 100, objects(BOX)) for k in "ax"], records)
    assert found.notes == {
        "predicted images that the ground truth does not have, left out": 1,
        "ground-truth images without a prediction, taken as empty": 1,
    }
    content = evaluate_set(found)[1]
    assert (content["metrics"]["tp_50"], content["metrics"]["fp_50"], content["metrics"]["fn_50"]) == (1, 0, 1)
    assert content["notes"] == found.notes


@pytest.mark.parametrize("name", ["a.jpg", "unknown.jpg"])
def test_an_image_with_two_predictions_is_refused(compare, name):
    twice = [ImagePrediction(name, 100, 100, objects(BOX)), ImagePrediction("a.jpg", 100, 100, ())]
    twice += [ImagePrediction(name, 100, 100, ())] * (name != "a.jpg")
    with pytest.raises(ValueError, match=f"predictions.jsonl:.: the image '{name}' has predictions at .*:1 already"):
        compare(twice)


def test_boxes_of_a_resized_image_are_scaled(compare):
    records = [DetectionRecord(["a.jpg"], 640, 427, [DetectionObject("cat", bbox_2d=(64.0, 42.7, 320.0, 213.5))])]
    found = compare([ImagePrediction("a.jpg", 320, 224, objects((32, 22.4, 160, 112)))], records)
    assert found.notes == {"predicted images of another size, boxes scaled to the ground truth's": 1}
    assert np.allclose(found.images[0].detections.boxes, [[64.0, 42.7, 320.0, 213.5]])


@pytest.mark.parametrize(("width", "height"), [(427, 640), (600, 500)])
def test_another_aspect_ratio_is_refused(compare, width, height):
    records = [DetectionRecord(["a.jpg"], 640, 427, [])]
    with pytest.raises(ValueError, match=f"{width} x {height}, but 640 x 427 .* no resized version"):
        compare([ImagePrediction("a.jpg", width, height, ())], records)


def test_odd_predictions_are_counted_and_treated(compare):
    boxes = [BOX, (60, 90, 10, 20), (0, 0, 500, 50), (math.nan, 0, 5, 5)]
    items = [*objects(*boxes), *objects((1, 1, 9, 9), desc="dog"), *objects((2, 2, 8, 8), score=math.nan)]
    found = compare([ImagePrediction("a.jpg", 100, 100, tuple(items), "", "length", {"arity": 2})])
    assert found.notes == {
        "boxes that are not finite, wrong wherever they are": 1,
        "inverted boxes, corners sorted": 1,
        "boxes beyond their image, kept": 1,
        "scores that are not finite, ranked last as 0": 1,
        "images whose completion was cut at its maximum length": 1,
        "malformed objects that were dropped when the text was read": 2,
        "predictions of descriptions that the ground truth nowhere has": 1,
    }
    metrics = evaluate_set(found)[1]["metrics"]
    assert (metrics["tp_50"], metrics["fp_50"]) == (1, 5)


def test_classes_synonyms_and_thresholds(compare, tmp_path):
    records = [DetectionRecord(["a.jpg"], 100, 100, [DetectionObject(desc, bbox_2d=BOX) for desc in ("sofa", "dog")])]
    items = (*objects(BOX, desc="Couch"), *objects(BOX, desc="dog", score=0.1), *objects((1, 1, 5, 5), desc="cow"))
    predictions = [ImagePrediction("a.jpg", 100, 100, items)]
    (tmp_path / "same.yaml").write_text("couch: [sofa, settee]\n")
    found = compare(predictions, records, synonyms=tmp_path / "same.yaml")
    assert evaluate_set(found)[1]["metrics"]["tp_50"] == 2
    found = compare(predictions, records, synonyms=tmp_path / "same.yaml", classes=["settee"])
    assert f1(found) == 1 and found.notes["predictions of other classes, left out"] == 2
    found = compare(predictions, records, score_threshold=0.2)
    assert found.notes["predictions below the score threshold, left out"] == 1
    with pytest.raises(ValueError, match="has no 'dogg'; did you mean 'dog'"):
        compare(predictions, records, classes=["dogg"])


# Conventions


def scene(change, num_images=8, seed=0, truth=lambda box, w, h: box):
    """Images of 1280 x 960 with five objects, found exactly, in another convention of boxes."""
    rng = np.random.default_rng(seed)
    records, predictions = [], []
    for k in range(num_images):
        low = rng.uniform(0, 500, (5, 2))
        boxes = np.concatenate([low, low + rng.uniform(60, 400, (5, 2))], axis=1)
        rows = [DetectionObject("cat", bbox_2d=tuple(truth(box, 1280, 960))) for box in boxes.tolist()]
        records.append(DetectionRecord([f"{k}.jpg"], 1280, 960, rows))
        found = [change(box, 1280, 960) for box in boxes.tolist()]
        predictions.append(ImagePrediction(f"{k}.jpg", 1280, 960, objects(*found)))
    return predictions, records


CHANGES = {
    "values between 0 and 1": lambda b, w, h: (b[0] / w, b[1] / h, b[2] / w, b[3] / h),
    "bins or values between 0 and 1000": lambda b, w, h: [
        round(v / s * 999) for v, s in zip(b, (w, h, w, h), strict=True)
    ],
    "x, y, width, height": lambda b, w, h: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
    "y1, x1, y2, x2, ": lambda b, w, h: (b[1], b[0], b[3], b[2]),
    "y1, x1, y2, x2 between 0 and 1000": lambda b, w, h: (
        b[1] / h * 1e3,
        b[0] / w * 1e3,
        b[3] / h * 1e3,
        b[2] / w * 1e3,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_predictions_in_another_convention_are_named(compare, name):
    with pytest.raises(
        ValueError, match=f"boxes of the predictions look like {name.rstrip(', ')}.*no-convention-check"
    ):
        compare(*scene(CHANGES[name]))
    assert compare(*scene(CHANGES[name]), check_convention=False).images


def test_ground_truth_in_another_convention_is_named(compare):
    as_bins = CHANGES["bins or values between 0 and 1000"]
    with pytest.raises(ValueError, match="boxes of the ground truth look like bins"):
        compare(*scene(lambda b, w, h: b, truth=as_bins))


def test_right_and_bad_predictions_are_not_suspected(compare):
    assert f1(compare(*scene(lambda b, w, h: b))) == 1
    rng = np.random.default_rng(3)

    def anywhere(b, w, h):
        x, y = rng.uniform(0, 900), rng.uniform(0, 700)
        return (x, y, x + rng.uniform(5, 300), y + rng.uniform(5, 200))

    compare(*scene(anywhere))
    compare(*scene(lambda b, w, h: (0, 0, 0, 0)))  # a collapsed model


def test_coco_results_beside_coco_ground_truth(tmp_path):
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 100, "height": 100} for k in (0, 7)]
    annotations = [
        {"id": 0, "image_id": 0, "category_id": 0, "bbox": [10, 20, 50, 70], "area": 3500, "iscrowd": 0},
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 50, 70], "area": 3500, "iscrowd": 0},
    ]
    gt = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    rows = [{"image_id": 0, "category_id": 0, "bbox": [10, 20, 50, 70], "score": 0.9}]
    rows += [{"image_id": 7, "category_id": 3, "bbox": [10, 20, 50, 70], "score": 0.8}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    found = read_evaluation_set(tmp_path / "results.json", tmp_path / "gt.json")
    metrics = evaluate_set(found)[1]["metrics"]
    assert metrics["f1"] == metrics["ap"] == 1  # ids of 0 are ids like any other
    (tmp_path / "results.json").write_text("[]")
    metrics = evaluate_set(read_evaluation_set(tmp_path / "results.json", tmp_path / "gt.json"))[1]["metrics"]
    assert metrics["f1"] == metrics["ap"] == 0 and metrics["fn_50"] == 2

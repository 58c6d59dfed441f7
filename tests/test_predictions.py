# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Prediction files: what is written is read back, and malformed lines are named."""

import json
import math

import pytest

from coordexp_trl.predictions import ImagePrediction, PredictedObject, read_predictions, write_predictions

CAT = PredictedObject("cat", (10.0, 20.5, 110.0, 220.0), 0.93, (1.2, 0.9, 2.0, 1.1))
ROW = {"image": "a.jpg", "width": 640, "height": 480, "objects": [{"desc": "cat", "bbox_2d": [1, 2, 3, 4]}]}


def test_what_is_written_is_read_back(tmp_path):
    shape = PredictedObject("leaf", (0.0, 0.0, 9.0, 9.0), poly=(0.0, 0.0, 9.0, 0.0, 9.0, 9.0))
    predictions = [
        ImagePrediction("a.jpg", 640, 480, (CAT, shape), "<obj>…", "length", {"arity": 2}, image_id=7),
        ImagePrediction("sub/ü.png", 10, 20, ()),
    ]
    assert write_predictions(predictions, tmp_path / "out" / "predictions.jsonl") == 2
    assert read_predictions(tmp_path / "out" / "predictions.jsonl") == predictions


def test_only_image_size_and_objects_are_needed(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(ROW | {"note": "from elsewhere"}) + "\n")
    (prediction,) = read_predictions(path)
    assert prediction == ImagePrediction("a.jpg", 640, 480, (PredictedObject("cat", (1.0, 2.0, 3.0, 4.0)),))
    assert prediction.source == f"{path}:1"


def test_nan_is_kept_for_evaluation_to_count(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(
        json.dumps(ROW | {"objects": [{"desc": "cat", "bbox_2d": [1, 2, 3, math.nan], "score": math.nan}]})
    )
    (item,) = read_predictions(path)[0].objects
    assert math.isnan(item.score) and math.isnan(item.bbox_2d[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 3}, "image = 3: must be text"),
        ({"width": "640"}, "width = '640': must be an integer"),
        ({"height": 0}, "height = 0: must be 1 or more"),
        ({"objects": None}, "objects = None: must be a list"),
        ({"objects": ["cat"]}, r"objects\[0\]: must be a JSON object"),
        ({"objects": [{"desc": "cat"}]}, r"objects\[0\].bbox_2d = None: must be a list of four"),
        ({"objects": [{"desc": "cat", "bbox_2d": [1, 2, 3, "4"]}]}, r"objects\[0\].bbox_2d: '4' is no number"),
        ({"objects": [{"bbox_2d": [1, 2, 3, 4]}]}, r"objects\[0\].desc: must be text"),
        ({"objects": [{"desc": "a", "bbox_2d": [1, 2, 3, 4], "score": "high"}]}, "score: 'high' is no number"),
        ({"objects": [{"desc": "a", "bbox_2d": [1, 2, 3, 4], "poly": [1, 2, 3, 4]}]}, "poly = .* at least 6"),
        ({"finish_reason": "eos"}, "finish_reason = 'eos': must be one of"),
        ({"dropped": []}, "dropped = .*: must be a JSON object"),
    ],
)
def test_malformed_lines_are_named(tmp_path, change, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | change) + "\n")
    with pytest.raises(ValueError, match=f"predictions.jsonl:2: .*{message}"):
        read_predictions(path)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.run_files."""

import json

import pytest
from run_folders import CAT, images, metrics, write_evaluation, write_training

from coordexp_trl.evaluation.image_results import ObjectResult
from coordexp_trl.evaluation.run_files import read_run


def test_everything_is_read(tmp_path):
    folder = write_training(write_evaluation(tmp_path / "run"))
    (folder / "run.json").write_text('{"model": "m"}')
    found = read_run(folder)
    assert found.evaluation == metrics() and found.run == {"model": "m"}
    assert [(row["class"], row["gt"], row["precision"], row["ap"], row["fp"]) for row in found.classes] == [
        ("cat", 3, 0.25, None, None),
        ("dog", 2, 0.25, None, None),
        ("bird", 0, 0.25, None, None),
    ]
    first, second, third = found.images
    assert first.predictions == (ObjectResult("cat", tuple(CAT), "tp", 0.7),)
    assert (second.tp, second.fp, second.fn, second.duplicates, second.finish_reason) == (1, 1, 1, 1, "length")
    assert (third.errors, third.dropped, third.ground_truth[0].status) == (4, 2, "missed")
    assert found.trainer_state["global_step"] == 20 and found.result["after"] == {"eval_f1": 0.375}


def test_the_run_beside_the_predictions_is_found(tmp_path):
    predictions = tmp_path / "inference" / "predictions.jsonl"
    content = metrics() | {"protocol": {"predictions": {"file": str(predictions)}}}
    folder = write_evaluation(tmp_path / "eval", content=content)
    assert read_run(folder).run is None
    predictions.parent.mkdir()
    (predictions.parent / "run.json").write_text('{"model": "beside"}')
    assert read_run(folder).run == {"model": "beside"}
    (folder / "run.json").write_text('{"model": "own"}')
    assert read_run(folder).run == {"model": "own"}


def test_the_newest_checkpoint_is_taken_unless_the_folder_has_its_own_state(tmp_path):
    for step in (5, 100, 20):
        write_training(tmp_path, step)
    (tmp_path / "checkpoint-old").mkdir()
    assert read_run(tmp_path).trainer_state["global_step"] == 100
    write_training(tmp_path, 7, checkpoint=False)
    assert read_run(tmp_path).trainer_state["global_step"] == 7


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="no metrics.json.*`coordexp infer` and then `coordexp eval --out DIR`"):
        read_run(tmp_path)
    (tmp_path / "predictions.jsonl").touch()
    with pytest.raises(ValueError, match="holds predictions but no evaluation.*coordexp eval --predictions"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="missing.*is no folder"):
        read_run(tmp_path / "missing")


def test_an_evaluation_without_images_or_classes(tmp_path):
    folder = write_evaluation(tmp_path, lines=[])
    assert read_run(folder).images == []
    (folder / "per_image.jsonl").unlink()
    (folder / "per_class.csv").unlink()
    assert (read_run(folder).images, read_run(folder).classes) == ([], [])


def test_an_evaluation_without_its_metrics(tmp_path):
    folder = write_evaluation(tmp_path)
    (folder / "metrics.json").unlink()
    with pytest.raises(ValueError, match="metrics.json: no such file, but others of the evaluation"):
        read_run(folder)


# File, its content, and what the message must name: file, line where there is one, field and value.
BROKEN = [
    ("metrics.json", '{"metrics": {},\n oops}', r"metrics.json:2: invalid JSON"),
    ("metrics.json", b"\xff", r"metrics.json: invalid JSON"),
    ("metrics.json", "[]", r"metrics.json:1: must be a JSON object"),
    ("metrics.json", "{}", r"metrics.json: metrics: must be a JSON object"),
    ("metrics.json", '{"metrics": {"f1": "good"}}', r"metrics.json: metrics.f1: 'good' is no number"),
    ("metrics.json", '{"metrics": {}, "by_iou": 5}', r"by_iou = 5: must be a list"),
    ("metrics.json", '{"metrics": {}, "by_size": [5]}', r"by_size\[0\] = 5: must be a JSON object"),
    ("metrics.json", '{"metrics": {}, "reliability": [{"low": 0}]}', r"reliability\[0\].high"),
    ("metrics.json", '{"metrics": {}, "by_iou": [{"f1": 0}]}', r"by_iou\[0\].iou: None is no number"),
    ("metrics.json", '{"metrics": {}, "ece": "low"}', r"ece: 'low' is no number"),
    ("metrics.json", '{"metrics": {}, "protocol": {"iou_threshold": []}}', r"iou_threshold: \[\] is no number"),
    ("metrics.json", '{"metrics": {}, "notes": []}', r"notes = \[\]: must be a JSON object"),
    ("per_class.csv", "class,f1\ncat,1\n", r"per_class.csv:1: has no column 'gt'"),
    ("per_class.csv", "", r"per_class.csv:1: has no column 'class'"),
    ("per_class.csv", "class,gt\ncat,1\ndog,two\n", r"per_class.csv:3: gt = 'two': must be a number"),
    ("per_class.csv", b"class,gt\n\xff,1\n", r"per_class.csv: is no CSV file in UTF-8"),
    ("run.json", "{", r"run.json:1: invalid JSON"),
    ("trainer_state.json", '{"log_history": [1]}', r"trainer_state.json: log_history\[0\] = 1"),
    ("result.json", "1", r"result.json:1: must be a JSON object"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files_are_named(tmp_path, name, content, message):
    folder = write_evaluation(tmp_path)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_run(folder)


# Change of the second line of per_image.jsonl, and what the message must name.
CHANGES = [
    ({"image": 3}, "image = 3"),
    ({"width": 0}, "width = 0"),
    ({"tp": 1.5}, "tp = 1.5: must be an integer"),
    ({"predictions": None}, "predictions = None: must be a list"),
    ({"predictions": [1]}, r"predictions\[0\]: must be a JSON object, got 1"),
    ({"ground_truth": [{"desc": "a", "bbox_2d": CAT, "status": "tp"}]}, r"ground_truth\[0\].status = 'tp': must be"),
    ({"ground_truth": [{"desc": "a", "bbox_2d": [1], "status": "missed"}]}, r"ground_truth\[0\].bbox_2d = \[1\]"),
    ({"ground_truth": [{"bbox_2d": CAT, "status": "missed"}]}, r"ground_truth\[0\].desc: must be text"),
    ({"predictions": [{"desc": "a", "bbox_2d": [0, 0, 1, float("nan")], "status": "fp"}]}, "must be finite"),
    ({"predictions": [{"desc": "a", "bbox_2d": CAT, "status": "fp", "score": "1"}]}, r"\[0\].score: '1' is no number"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_broken_lines_are_named(tmp_path, change, message):
    lines = images()
    folder = write_evaluation(tmp_path)
    lines[1] |= change
    (folder / "per_image.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=f"per_image.jsonl:2: .*{message}"):
        read_run(folder)
    (folder / "per_image.jsonl").write_text(json.dumps(lines[0]) + "\n{\n")
    with pytest.raises(ValueError, match="per_image.jsonl:2: invalid JSON"):
        read_run(folder)

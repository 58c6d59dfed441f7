# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The files of an evaluation, and the command that writes them."""

import csv
import json

import pytest

from coordexp_trl.cli import main
from coordexp_trl.datasets.coco import convert_coco
from coordexp_trl.datasets.lvis import convert_lvis
from coordexp_trl.evaluation.run_files import read_run
from coordexp_trl.predictions import ImagePrediction, PredictedObject, write_predictions
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records

CAT, DOG = (10.0, 10.0, 50.0, 50.0), (60.0, 60.0, 90.0, 95.0)


@pytest.fixture
def files(tmp_path):
    """One image of a cat and a dog: the cat is found twice, and a cow where the dog is; another image is empty."""
    objects = [DetectionObject("cat", bbox_2d=CAT), DetectionObject("dog", bbox_2d=DOG)]
    records = [DetectionRecord(["a.jpg"], 100, 100, objects), DetectionRecord(["b.jpg"], 100, 80, [])]
    write_records(records, tmp_path / "gt.jsonl")
    found = (
        PredictedObject("cat", CAT, 0.9),
        PredictedObject("cat", (11.0, 10.0, 50.0, 50.0), 0.6),
        PredictedObject("cow", DOG, 0.5),
    )
    predictions = [ImagePrediction("a.jpg", 100, 100, found, "", "length", {"arity": 1})]
    write_predictions(predictions, tmp_path / "predictions.jsonl")
    return tmp_path


def run(folder, *options, truth="gt.jsonl", predictions="predictions.jsonl"):
    argv = ["eval", "--predictions", folder / predictions, "--ground_truth", folder / truth, "--out", folder / "out"]
    return main([str(item) for item in (*argv, *options)])


def test_what_the_files_hold(files, capsys):
    assert run(files) == 0
    out = capsys.readouterr().out
    assert "2 objects and 3 predictions in 2 images" in out and "F1" in out and "treated" in out
    content = json.loads((files / "out/metrics.json").read_text())
    assert content["metrics"]["tp_50"] == 1 and content["metrics"]["duplicate_rate"] == pytest.approx(1 / 3)
    assert content["counts"] == {"images": 2, "ground_truth": 2, "predictions": 3, "classes": 3}
    protocol = content["protocol"]
    assert protocol["predictions"]["kind"] == "predictions" and len(protocol["ground_truth"]["sha256"]) == 64
    assert protocol["max_detections"] == 100 and protocol["versions"]["faster-coco-eval"]

    rows = list(csv.DictReader((files / "out/per_class.csv").open()))
    assert [(row["class"], row["gt"], row["tp"], row["ap"]) for row in rows] == [
        ("cat", "1", "1", "1.0"),
        ("dog", "1", "0", "0.0"),
        ("cow", "0", "0", ""),
    ]
    first, second = map(json.loads, (files / "out/per_image.jsonl").read_text().splitlines())
    assert [item["status"] for item in first["predictions"]] == ["tp", "duplicate", "fp"]
    assert [item["status"] for item in first["ground_truth"]] == ["matched", "missed"]
    assert first["predictions"][0]["gt"] == 0 and first["predictions"][0]["iou"] == 1
    assert (first["tp"], first["fp"], first["fn"], first["duplicates"]) == (1, 2, 1, 1)
    assert (first["finish_reason"], first["dropped"]) == ("length", {"arity": 1})
    assert first["image_path"] == str(files / "a.jpg")
    assert second["predictions"] == second["ground_truth"] == []


def test_a_report_reads_them(files):
    assert run(files) == 0
    found = read_run(files / "out")
    assert found.images[0].fp == 2 and found.classes[0]["class"] == "cat" and found.evaluation["by_iou"]
    assert main(["report", "--run", str(files / "out"), "--out", str(files / "report.html")]) == 0


def test_json_and_options(files, capsys):
    assert run(files, "--json", "--classes", "cat", "--iou-threshold", "0.99", "--max-detections", "5") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["metrics"]["f1"] == pytest.approx(2 / 3) and content["protocol"]["classes"] == ["cat"]
    assert content["protocol"]["max_detections"] == 5


def test_predictions_without_scores_say_so(files, capsys):
    objects = (PredictedObject("cat", CAT), PredictedObject("cat", DOG))
    write_predictions([ImagePrediction("a.jpg", 100, 100, objects)], files / "predictions.jsonl")
    assert run(files) == 0
    assert "AP without different scores depends on the order: 0.2500 to 0.5000" in capsys.readouterr().out
    first = json.loads((files / "out/per_image.jsonl").read_text().splitlines()[0])
    assert "score" not in first["predictions"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "kat"], "has no 'kat'; did you mean 'cat'"),
        (["--iou-threshold", "0"], "iou_threshold = 0.0"),
        (["--synonyms", "nowhere.yaml"], "synonyms = 'nowhere.yaml': no such file"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(files, capsys, options, message):
    assert run(files, *options) == 2
    assert message in capsys.readouterr().err and not (files / "out").exists()


# Real data


@pytest.mark.shared_data
@pytest.mark.parametrize("kind", ["records", "COCO"])
def test_the_ground_truth_of_photographs_finds_itself(shared_data, tmp_path, kind):
    folder = shared_data / "coco_permissive"
    annotations = folder / "instances_val2017.json"
    convert_coco(annotations, folder / "images/val2017", tmp_path / "gt.jsonl")
    records = read_records(tmp_path / "gt.jsonl")
    predictions = [
        ImagePrediction(
            record.images[0],
            record.width,
            record.height,
            tuple(PredictedObject(item.desc, item.bbox_2d, 0.5 + k / 1000) for k, item in enumerate(record.objects)),
            image_id=record.metadata["image_id"],
        )
        for record in records
    ]
    write_predictions(predictions, tmp_path / "predictions.jsonl")
    truth = "gt.jsonl" if kind == "records" else annotations
    assert run(tmp_path, truth=truth) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]
    names = ("f1", "macro_f1_50_95", "mean_iou", "ap", "ap75", "ar")
    assert [metrics[name] for name in names] == pytest.approx([1] * 6)


@pytest.mark.shared_data
def test_lvis_annotations_find_themselves(shared_data, tmp_path, capsys):
    annotations = next((shared_data / "lvis_val_100").glob("lvis_val_100.json"))
    convert_lvis(annotations, None, tmp_path / "gt.jsonl")
    predictions = [
        ImagePrediction(
            record.images[0],
            record.width,
            record.height,
            tuple(PredictedObject(item.desc, item.bbox_2d, 0.5 + k / 1000) for k, item in enumerate(record.objects)),
        )
        for record in read_records(tmp_path / "gt.jsonl")
    ]
    write_predictions(predictions, tmp_path / "predictions.jsonl")
    assert run(tmp_path, truth=annotations) == 0
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert content["protocol"]["federated"] and content["protocol"]["max_detections"] == 300
    names = ("f1", "ap", "ap_rare", "ap_common", "ap_frequent")
    assert [content["metrics"][name] for name in names] == pytest.approx([1] * 5, abs=0.002)  # rounded boxes
    assert run(tmp_path, "--class-agnostic", truth=annotations) == 2
    assert "federated" in capsys.readouterr().err

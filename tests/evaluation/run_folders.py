# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Folders of runs for the tests of reports: a small evaluation by hand, with everything that a report can show."""

import csv
import json
from pathlib import Path

from PIL import Image

CAT, DOG, FAR = [20.0, 20.0, 90.0, 80.0], [120.0, 30.0, 180.0, 90.0], [5.0, 5.0, 15.0, 15.0]
SIZE = (200, 100)


def prediction(desc, box, status, score=None):
    return {"desc": desc, "bbox_2d": box, "status": status} | ({} if score is None else {"score": score})


def evaluated_image(name, truths, predictions, **changes):
    """A line of `per_image.jsonl`; the counts follow from the statuses."""
    statuses = [item["status"] for item in predictions]
    fn = sum(item["status"] == "missed" for item in truths)
    tp, fp = statuses.count("tp"), statuses.count("fp") + statuses.count("duplicate")
    row = {"image": name, "image_path": None, "width": SIZE[0], "height": SIZE[1], "tp": tp, "fp": fp, "fn": fn}
    row |= {"duplicates": statuses.count("duplicate"), "f1": 2 * tp / max(2 * tp + fp + fn, 1)}
    row |= {"finish_reason": "stop", "dropped": {}, "ground_truth": truths, "predictions": predictions}
    return row | changes


def images():
    """Three images: all right, a duplicate and a missed object, and everything wrong."""
    cat, dog = ({"desc": "cat", "bbox_2d": CAT}, {"desc": "dog", "bbox_2d": DOG})
    matched, missed = {"status": "matched"}, {"status": "missed"}
    twice = [prediction("cat", CAT, "tp", 0.9), prediction("cat", [22, 21, 92, 80], "duplicate", 0.4)]
    wrong = [prediction("cat", DOG, "fp", 0.8), prediction("bird", FAR, "fp", 0.1)]
    return [
        evaluated_image("a.png", [cat | matched], [prediction("cat", CAT, "tp", 0.7)]),
        evaluated_image("sub/b.png", [cat | matched, dog | missed], twice, finish_reason="length"),
        evaluated_image("c.png", [cat | missed, dog | missed], wrong, dropped={"inverted": 2}),
    ]


def metrics():
    """The content of `metrics.json`."""
    by_iou = [
        {"iou": 0.5, "tp": 2, "fp": 3, "fn": 3, "precision": 0.4, "recall": 0.4, "f1": 0.4, "duplicates": 1},
        {"iou": 0.75, "tp": 2, "fp": 3, "fn": 3, "precision": 0.4, "recall": 0.4, "f1": 0.4, "duplicates": 1},
    ]
    empty = {"count": 0, "mean_score": None, "precision": None}
    reliability = [{"low": k / 10, "high": (k + 1) / 10, **empty} for k in range(10)]
    reliability[7] |= {"count": 1, "mean_score": 0.7, "precision": 1.0}
    reliability[8] |= {"count": 1, "mean_score": 0.8, "precision": 0.0}
    return {
        "metrics": {"f1_50": 0.4, "f1_75": 0.4, "precision_50": 0.4, "recall_50": 0.4, "ap": 0.3125, "ap_rare": None},
        "by_iou": by_iou,
        "by_size": [{"size": "medium", "gt": 5, "ap": 0.3125, "ar": 0.5, "recall": 0.4}],
        "reliability": reliability,
        "ece": 0.55,
        "confusions": [{"ground_truth": "dog", "prediction": "cat", "count": 1}],
        "counts": {"images": 3, "ground_truth": 5, "predictions": 5},
        "notes": {"inverted boxes": 2, "unknown classes": 0},
        "protocol": {"iou_threshold": 0.5, "matching": "normalised"},
    }


def write_evaluation(folder: Path, lines=None, content=None, classes=(("cat", 3), ("dog", 2), ("bird", 0))) -> Path:
    """Writes an evaluation, and its images into `images/`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = images() if lines is None else lines
    (folder / "metrics.json").write_text(json.dumps(metrics() if content is None else content), encoding="utf-8")
    with open(folder / "per_image.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with open(folder / "per_class.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["class", "gt", "tp", "precision", "ap"])
        writer.writeheader()
        writer.writerows({"class": name, "gt": gt, "tp": 1, "precision": 0.25, "ap": ""} for name, gt in classes)
    for line in lines:
        path = folder / "images" / line["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (40, 90, 60)).save(path)
    return folder


def write_training(folder: Path, step: int = 20, checkpoint: bool = True) -> Path:
    """Writes what a training run leaves."""
    history = [{"loss": 3.0 / n, "eval_f1": 0.1 * n, "step": 10 * n} for n in range(1, 4)]
    place = folder / f"checkpoint-{step}" if checkpoint else folder
    place.mkdir(parents=True, exist_ok=True)
    state = {"global_step": step, "log_history": history}
    (place / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    result = {"before": {"eval_f1": 0.125}, "after": {"eval_f1": 0.375}}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation leaves: `metrics.json`, `per_class.csv` and `per_image.jsonl`."""

import csv
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coordexp_trl.datasets.json_lines import write_json_lines
from coordexp_trl.evaluation.average_precision import AREAS, IOU_THRESHOLDS
from coordexp_trl.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from coordexp_trl.evaluation.inputs.evaluation_set import EvaluationImage, EvaluationSet

FILES = ("metrics.json", "per_class.csv", "per_image.jsonl")


def evaluate_set(
    found: EvaluationSet, settings: EvaluationSettings | None = None
) -> tuple[Evaluation, dict[str, Any]]:
    """
    Evaluates predictions beside the ground truth.

    Args:
        found ([`EvaluationSet`]):
            Both, image by image.
        settings ([`EvaluationSettings`], *optional*):
            How predictions are judged.

    Returns:
        `tuple[Evaluation, dict]`: the evaluation, and the content of `metrics.json`.
    """
    settings = settings or EvaluationSettings()
    if settings.class_agnostic and found.is_federated:
        raise ValueError(
            "class_agnostic: federated ground truth (LVIS) says which classes were looked for, so predictions cannot "
            "be judged without their descriptions."
        )
    result = evaluate([image.detections for image in found.images], settings, found.frequencies)
    objects = sum(row["gt"] for row in result.classes)
    counts = {
        "images": len(found.images),
        "ground_truth": objects,
        "predictions": sum(len(image.detections.descs) for image in found.images),
        "classes": len(result.classes),
    }
    content = {
        "metrics": result.metrics,
        "by_iou": result.by_iou,
        "by_size": result.by_size,
        "reliability": result.reliability,
        "ece": result.metrics["ece"],
        "confusions": result.confusions,
        "counts": counts,
        "notes": dict(found.notes + result.notes),
        "protocol": found.protocol | _protocol(settings, found.is_federated),
    }
    return result, content


def write_results(folder: str | Path, found: EvaluationSet, result: Evaluation, content: dict[str, Any]) -> None:
    """
    Writes the files of an evaluation; each appears complete or not at all.

    Args:
        folder (`str` or `Path`):
            Folder to write to; made if it is missing.
        found ([`EvaluationSet`]):
            What was compared.
        result ([`Evaluation`]):
            What was found.
        content (`dict[str, Any]`):
            Content of `metrics.json`, from [`evaluate_set`].
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(map(_image_row, found.images, result.outcomes, result.counts), folder / "per_image.jsonl")
    _write(folder / "per_class.csv", lambda file: _write_classes(file, result.classes))
    # The last one: where it is, the others are
    _write(folder / "metrics.json", lambda file: json.dump(content, file, indent=2, ensure_ascii=False))


def _protocol(settings: EvaluationSettings, is_federated: bool) -> dict[str, Any]:
    scope = "of all classes together" if is_federated else "of a class"
    return {
        "iou_threshold": settings.iou_threshold,
        "iou_thresholds": list(IOU_THRESHOLDS),
        "duplicate_iou": settings.duplicate_iou,
        "max_detections": settings.max_detections,
        "max_detections_scope": f"predictions {scope} in an image, for AP and AR",
        "class_agnostic": settings.class_agnostic,
        "federated": is_federated,
        "descriptions": "equal up to case, spaces and underscores, after synonyms",
        "matching": "one to one within an image and class: as many pairs as possible, then the largest sum of IoU",
        "ignored": "predictions in crowd regions, and of classes that federated ground truth does not judge",
        "macro": "mean over the classes in ground truth or predictions; a class without true positive counts 0",
        "ap": "101 recalls, IoU .50:.05:.95, classes in the ground truth; equal scores by box, then by image",
        "areas": {name: list(limits) for name, limits in AREAS.items()},
        "versions": {name: version(name) for name in ("coordexp-trl", "faster-coco-eval", "numpy", "scipy")},
    }


def _image_row(image: EvaluationImage, outcome, counts) -> dict[str, Any]:
    detections = image.detections
    pair_of = {i: (j, iou) for i, j, iou in outcome.pairs}
    status = dict.fromkeys(outcome.ignored, "ignored") | dict.fromkeys(outcome.duplicates, "duplicate")
    status |= dict.fromkeys(pair_of, "tp")
    found = {j for j, _ in pair_of.values()}
    row = {"image": image.image, "image_path": image.image_path, "width": image.width, "height": image.height}
    row |= {name: getattr(counts, name) for name in ("tp", "fp", "fn", "duplicates", "precision", "recall", "f1")}
    row |= {"mean_iou": counts.mean_iou if counts.tp else None}
    row |= {"finish_reason": image.finish_reason, "dropped": image.dropped}
    crowd = detections.gt_crowd if len(detections.gt_crowd) else [False] * len(detections.gt_descs)
    row["ground_truth"] = [
        {"desc": desc, "bbox_2d": box, "status": "ignored" if is_crowd else "matched" if j in found else "missed"}
        for j, (desc, box, is_crowd) in enumerate(
            zip(detections.gt_descs, _rounded(detections.gt_boxes), crowd, strict=True)
        )
    ]
    row["predictions"] = []
    for i, (desc, box) in enumerate(zip(detections.descs, _rounded(detections.boxes), strict=True)):
        item = {"desc": desc, "bbox_2d": box}
        if detections.scores is not None:
            item["score"] = round(float(detections.scores[i]), 6)
        gt, iou = pair_of.get(i, (None, None))
        row["predictions"].append(item | {"status": status.get(i, "fp"), "gt": gt, "iou": iou and round(iou, 6)})
    return row


def _rounded(boxes: Sequence) -> list[list[float]]:
    """Boxes for a file: to a thousandth of a pixel, and 0 for what is not finite, which JSON cannot hold."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return np.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0).round(3).tolist()


def _write_classes(file, classes: list[dict]) -> None:
    names = ["class", "images", "gt", "predictions", "tp", "fp", "fn", "duplicates"]
    names += ["precision", "recall", "f1", "mean_iou", "ap", "ap50", "ap75"]
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(classes)


def _write(path: Path, write) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

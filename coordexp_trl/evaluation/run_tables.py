# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tables of an evaluation, from what `metrics.json` and `per_class.csv` hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from coordexp_trl.evaluation.report import Table

# Label, key of the metrics, and what a reader needs to know
HEADLINE = (
    ("F1 at IoU .5", "f1_50", "2 TP / (2 TP + FP + FN); TP: one prediction for one object of the same description"),
    ("F1 at IoU .75", "f1_75", "the same with tighter boxes"),
    ("F1 at IoU .5:.95", "f1_50_95", "mean over ten thresholds"),
    ("macro F1 at IoU .5", "macro_f1_50", "mean over the classes; a class without TP counts 0"),
    ("precision at IoU .5", "precision_50", "share of the predictions that are right"),
    ("recall at IoU .5", "recall_50", "share of the objects that were found"),
    ("mean IoU of matches", "mean_iou_50", "how well the boxes of true positives fit"),
    ("duplicate rate", "duplicate_rate", "share of the predictions that repeat another one"),
    ("AP", "ap", "average precision, mean over IoU .5:.95, predictions ranked by their scores"),
    ("AP50", "ap50", "AP at IoU .5"),
    ("AP75", "ap75", "AP at IoU .75"),
    ("AP of rare classes", "ap_rare", "LVIS"),
    ("AP of common classes", "ap_common", "LVIS"),
    ("AP of frequent classes", "ap_frequent", "LVIS"),
    (
        "AP without scores, least",
        "ap_constant_min",
        "if all scores were equal, over all orders of the predictions: least",
    ),
    ("AP without scores, most", "ap_constant_max", "and most"),
    ("AR", "ar", "average recall, mean over IoU .5:.95"),
    ("calibration error", "ece", "mean distance between score and precision"),
)
_COLUMNS = {
    "by_iou": {
        "iou": "IoU",
        "tp": "TP",
        "fp": "FP",
        "fn": "FN",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "macro_f1": "macro F1",
        "mean_iou": "mean IoU",
        "duplicates": "duplicates",
    },
    "by_size": {"size": "size", "gt": "objects", "ap": "AP", "ar": "AR", "recall": "recall"},
    "confusions": {"ground_truth": "ground truth", "prediction": "predicted as", "count": "count"},
    "classes": {
        "class": "class",
        "gt": "objects",
        "images": "images",
        "predictions": "predictions",
        "tp": "TP",
        "fp": "FP",
        "fn": "FN",
        "duplicates": "duplicates",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "mean_iou": "mean IoU",
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
    },
}
_MAX_CLASSES = 50
_DECIMALS = 3


def evaluation_tables(evaluation: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> list[Table]:
    """
    Returns the tables of an evaluation; those without rows and columns without values are left out.

    Args:
        evaluation (`Mapping[str, Any]`):
            Content of `metrics.json`.
        classes (`Sequence[Mapping[str, Any]]`):
            Rows of `per_class.csv`.

    Returns:
        `list[Table]`: results, by IoU threshold, by size, by class, and confused descriptions.
    """
    tables = [_headline(evaluation)]
    tables.append(
        _table(
            "By IoU threshold", "by_iou", [{**row, "iou": f"{row['iou']:g}"} for row in evaluation.get("by_iou", [])]
        )
    )
    sizes = "COCO's areas in pixels: small below 32², medium below 96², large from there on."
    tables.append(_table("By size of object", "by_size", evaluation.get("by_size", []), sizes))
    ordered = sorted(classes, key=lambda row: (-(row["gt"] or 0), row["class"]))
    note = "Classes with the most ground-truth objects first."
    if len(ordered) > _MAX_CLASSES:
        note += f" {len(ordered) - _MAX_CLASSES} more are in per_class.csv."
    tables.append(_table("By class", "classes", ordered[:_MAX_CLASSES], note))
    confusions = (
        "Boxes that match an object of another description, the descriptions aside. The most frequent pairs first."
    )
    tables.append(_table("Confused descriptions", "confusions", evaluation.get("confusions", []), confusions))
    return [table for table in tables if table is not None]


def _headline(evaluation: Mapping[str, Any]) -> Table:
    metrics = evaluation["metrics"]
    rows = []
    for label, key, meaning in HEADLINE:
        if metrics.get(key) is not None:
            rows.append((label, float(metrics[key]), meaning))
    counts = evaluation.get("counts", {})
    rows += [
        (name.replace("_", " "), value, "") for name, value in counts.items() if not isinstance(value, dict | list)
    ]
    return Table("Results", ["", "value", "meaning"], rows, _treatments(evaluation.get("notes", {})), _DECIMALS)


def _treatments(notes: Mapping[str, Any]) -> str:
    """One line for each kind of input that needed a decision."""
    lines = [
        f"{name.replace('_', ' ')}: {value}" for name, value in notes.items() if value not in (0, None, "", [], {})
    ]
    return "\n".join(["Treated on the way:", *lines]) if lines else ""


def _table(title: str, kind: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> Table | None:
    names = [name for name in _COLUMNS[kind] if any(row.get(name) is not None for row in rows)]
    if not rows or not names:
        return None
    headers, cells = [_COLUMNS[kind][name] for name in names], [[row.get(name) for name in names] for row in rows]
    return Table(title, headers, cells, note, _DECIMALS)

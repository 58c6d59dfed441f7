# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the figures of an evaluation mean."""

from typing import NamedTuple

RATIO = "0 to 1"


class Metric(NamedTuple):
    """
    What a figure means.

    Args:
        unit (`str`):
            Its unit or range.
        meaning (`str`):
            One or two sentences.
    """

    unit: str
    meaning: str


DETECTION = {
    "precision": Metric(RATIO, "True positives over predictions."),
    "recall": Metric(RATIO, "True positives over objects."),
    "f1": Metric(RATIO, "2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall."),
    "mean_iou": Metric(RATIO, "Mean IoU of the true positives."),
    "duplicate_rate": Metric(
        RATIO, "Predictions that repeat another one of their class (IoU at least .7), over all predictions."
    ),
}
STRICT = {"f1_75": Metric(RATIO, "F1 at IoU .75.")}
AVERAGE_PRECISION = {
    "ap": Metric(RATIO, "Average precision as COCO defines it: mean over the IoU thresholds .50, .55 … .95."),
    "ap50": Metric(RATIO, "Average precision at IoU .50."),
    "ap75": Metric(RATIO, "Average precision at IoU .75."),
    "ar": Metric(RATIO, "Average recall: mean over classes and the IoU thresholds .50, .55 … .95."),
}

# `metrics` in the metrics.json of `coordexp eval`; several names in one key share a meaning.
RESULTS = (
    DETECTION
    | AVERAGE_PRECISION
    | {
        "duplicate_rate": Metric(
            RATIO, "Predictions that repeat another one of their class (`--duplicate-iou`), over all predictions."
        ),
        "ap_small, ap_medium, ap_large": Metric(
            RATIO, "`ap` of objects with an area up to 32², up to 96², and above, in square pixels."
        ),
        "ar_small, ar_medium, ar_large": Metric(RATIO, "`ar` of the same."),
        "ar_1, ar_10, ar_100": Metric(
            RATIO,
            "Average recall with so many predictions of a class in an image; the last number is `--max-detections`.",
        ),
        "ap_rare, ap_common, ap_frequent": Metric(RATIO, "`ap` of the classes that LVIS calls so; with LVIS only."),
        "ap_constant_min, ap_constant_max": Metric(
            RATIO, "Bounds of `ap` over all orders of the predictions, as if every score were the same."
        ),
        "precision_50, recall_50, f1_50, mean_iou_50": Metric(RATIO, "At IoU .50, whatever `--iou-threshold` is."),
        "precision_75, recall_75, f1_75, mean_iou_75": Metric(RATIO, "At IoU .75."),
        "precision_50_95, recall_50_95, f1_50_95, mean_iou_50_95": Metric(
            RATIO, "Means over the IoU thresholds .50, .55 … .95."
        ),
        "macro_precision_50, macro_recall_50, macro_f1_50": Metric(RATIO, "Means over the classes, at IoU .50."),
        "macro_precision_75, macro_recall_75, macro_f1_75": Metric(RATIO, "Means over the classes, at IoU .75."),
        "macro_precision_50_95, macro_recall_50_95, macro_f1_50_95": Metric(
            RATIO, "Means over the classes and the IoU thresholds .50, .55 … .95."
        ),
        "tp_50, fp_50, fn_50": Metric("predictions, objects", "True positives, false positives, misses at IoU .50."),
        "tp_75, fp_75, fn_75": Metric("predictions, objects", "The same at IoU .75."),
        "ece": Metric(
            RATIO, "Expected calibration error: mean distance of score and precision, in ten bins of scores."
        ),
    }
)

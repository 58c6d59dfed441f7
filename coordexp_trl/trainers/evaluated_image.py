# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What evaluation keeps of one image, and the metrics of a set of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.average_precision import ImageDetections, average_precision
from coordexp_trl.evaluation.f1 import DetectionCounts, count_detections
from coordexp_trl.evaluation.scores import object_scores
from coordexp_trl.generation import Rollout
from coordexp_trl.protocols import ParsedCompletion
from coordexp_trl.sequences import GroundTruthObject
from coordexp_trl.trainers.rollout_stats import RolloutStats

STRICT_IOU = 0.75


@dataclass
class EvaluatedImage:
    """
    Greedy predictions of one image beside its ground truth.

    Attributes:
        stats ([`RolloutStats`]):
            Counts at the configured IoU threshold.
        strict ([`DetectionCounts`]):
            Counts at IoU 0.75.
        detections ([`ImageDetections`]):
            Boxes in [0, 1] with scores, for average precision.
        dataset (`str`):
            Name of the dataset that the image belongs to, or `""`.
    """

    stats: RolloutStats
    strict: DetectionCounts
    detections: ImageDetections
    dataset: str = ""

    @classmethod
    def of(
        cls,
        rollout: Rollout,
        parsed: ParsedCompletion,
        objects: Sequence[GroundTruthObject],
        grid: CoordinateGrid,
        iou_threshold: float,
        dataset: str = "",
    ) -> "EvaluatedImage":
        """Compares one completion, whose rollout has log-probabilities, with the image's ground truth."""
        boxes = grid.bins_to_unit(parsed.boxes(grid))
        descs = [item.desc for item in parsed.objects]
        gt_boxes, gt_descs = [item.box for item in objects], [item.desc for item in objects]
        # A broken model's probabilities are NaN: its output ranks last, and is no error
        scores = [0.0 if math.isnan(score) else score for score in object_scores(parsed, rollout.logprobs)]
        return cls(
            RolloutStats.of(rollout, parsed, count_detections(boxes, descs, gt_boxes, gt_descs, iou_threshold)),
            count_detections(boxes, descs, gt_boxes, gt_descs, STRICT_IOU),
            ImageDetections(boxes, descs, scores, gt_boxes, gt_descs),
            dataset,
        )


def evaluation_metrics(images: Sequence[EvaluatedImage]) -> dict[str, float]:
    """
    Args:
        images (`Sequence[EvaluatedImage]`):
            Evaluated images, each once.

    Returns:
        `dict[str, float]`: Those of [`RolloutStats.metrics`], `f1_75` (F1 at IoU 0.75) and those of
        [`average_precision`].
    """
    strict = sum((image.strict for image in images), DetectionCounts())
    return {
        **sum((image.stats for image in images), RolloutStats()).metrics(),
        "f1_75": strict.f1,
        **average_precision([image.detections for image in images]),
    }


def metrics_by_dataset(images: Sequence[EvaluatedImage]) -> dict[str, float]:
    """
    Args:
        images (`Sequence[EvaluatedImage]`):
            Evaluated images, each once.

    Returns:
        `dict[str, float]`: The [`evaluation_metrics`] of all images, and as `{dataset}_{metric}` those of each named
        dataset.
    """
    metrics = evaluation_metrics(images)
    for name in filter(None, dict.fromkeys(image.dataset for image in images)):
        part = evaluation_metrics([image for image in images if image.dataset == name])
        metrics |= {f"{name}_{metric}": value for metric, value in part.items()}
    return metrics

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""One image at all IoU thresholds: what was found, missed, repeated and must not be judged."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from coordexp_trl.boxes import box_area
from coordexp_trl.evaluation.f1 import (
    DetectionCounts,
    Overlaps,
    canonical_order,
    class_overlaps,
    duplicate_groups,
    match_overlaps,
    surplus,
)
from coordexp_trl.evaluation.samples import ImageDetections, as_boxes, as_keys
from coordexp_trl.matching import normalize_desc

LOWEST_IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """
    What became of predictions and GT at one IoU threshold.

    Args:
        pairs (`list[tuple[int, int, float]]`):
            Prediction, GT object and IoU of each match.
        ignored (`list[int]`):
            Predictions without a match that are neither right nor wrong.
        duplicates (`list[int]`):
            Predictions without a match that repeat another one.
    """

    pairs: list[tuple[int, int, float]]
    ignored: list[int]
    duplicates: list[int]


class Comparison:
    """
    Predictions beside GT.

    Matching is that of [`~coordexp_trl.evaluation.f1.match_detections`]. A prediction without a match is ignored if it
    lies in a crowd region of its class (intersection over its own area at least the threshold, as in COCO), or if the
    federated GT does not know whether it is right.

    Args:
        image ([`ImageDetections`]):
            The image.
        class_agnostic (`bool`, *optional*, defaults to `False`):
            Whether to ignore the descriptions.
        duplicate_iou (`float`, *optional*, defaults to `0.7`):
            IoU from which two predictions of a class show the same object.

    Attributes:
        boxes (`torch.Tensor`):
            Predicted boxes of shape `(N, 4)`, corners sorted.
        keys (`numpy.ndarray`):
            Their classes.
        scores (`numpy.ndarray` or `None`):
            Their scores.
        truths (`torch.Tensor`):
            GT boxes of shape `(M, 4)`, crowd regions among them.
        gt_keys (`numpy.ndarray`):
            Their classes.
        crowd (`numpy.ndarray`):
            Which of them are crowd regions, shape `(M,)`.
        areas (`numpy.ndarray`):
            Areas of the GT objects, shape `(M,)`.
    """

    def __init__(self, image: ImageDetections, class_agnostic: bool = False, duplicate_iou: float = 0.7):
        self.duplicate_iou = duplicate_iou
        self.boxes, self.truths = as_boxes("boxes", image.boxes), as_boxes("gt_boxes", image.gt_boxes)
        self.keys = as_keys("", self.boxes, image.descs, class_agnostic)
        self.gt_keys = as_keys("gt_", self.truths, image.gt_descs, class_agnostic)
        self.scores = None if image.scores is None else _scores(image.scores, len(self.keys))
        if not torch.isfinite(self.truths).all():
            raise ValueError(f"gt_boxes: {self.truths.tolist()} is not finite. Repair the ground truth.")
        count = len(self.gt_keys)
        self.crowd = np.array(image.gt_crowd, dtype=bool) if len(image.gt_crowd) else np.zeros(count, dtype=bool)
        sides = self.truths.numpy()[:, 2:] - self.truths.numpy()[:, :2]
        areas = image.gt_areas if len(image.gt_areas) else sides.prod(axis=1)
        self.areas = np.array(areas, dtype=float)
        for name, values in (("gt_crowd", self.crowd), ("gt_areas", self.areas)):
            if len(values) != count:
                raise ValueError(f"{name}: got {len(values)} values for {count} GT boxes.")
        self.known = None
        if image.absent is not None:
            self.known = {*self.gt_keys.tolist(), *map(normalize_desc, image.absent)}
        self.incomplete = set(map(normalize_desc, image.incomplete))
        self._outcomes: dict[float, Outcome] = {}

    @cached_property
    def order(self) -> np.ndarray:
        """The predictions by score, best first, equal ones by class and box."""
        order = canonical_order(self.boxes, self.keys)
        return order if self.scores is None else order[np.argsort(-self.scores[order], kind="stable")]

    @cached_property
    def judged(self) -> np.ndarray:
        """Whether the GT knows if objects of a prediction's class are there, shape `(N,)`."""
        if self.known is None:
            return np.ones(len(self.keys), dtype=bool)
        return np.array([key in self.known for key in self.keys], dtype=bool)

    @cached_property
    def open(self) -> np.ndarray:
        """Whether a prediction without a match may be right all the same, shape `(N,)`."""
        return ~self.judged | np.array([key in self.incomplete for key in self.keys], dtype=bool)

    @cached_property
    def overlaps(self) -> Overlaps:
        """IoU of predictions and GT objects within classes, crowd regions left out."""
        objects = np.flatnonzero(~self.crowd)
        overlaps = class_overlaps(self.boxes, self.keys, self.truths[objects], self.gt_keys[objects])
        return overlaps if len(objects) == len(self.crowd) else overlaps.with_columns(objects)

    @cached_property
    def _in_crowd(self) -> np.ndarray:
        """The largest part of each prediction that lies in a crowd region of its class, shape `(N,)`."""
        regions = np.flatnonzero(self.crowd)
        if not len(regions) or not len(self.keys):
            return np.zeros(len(self.keys))
        truths = self.truths[regions]
        low = torch.maximum(self.boxes[:, None, :2], truths[None, :, :2])
        high = torch.minimum(self.boxes[:, None, 2:], truths[None, :, 2:])
        inside = (high - low).clamp(min=0).prod(-1)
        part = (inside / box_area(self.boxes)[:, None]).nan_to_num(0.0, 0.0, 0.0).numpy()
        return np.where(self.keys[:, None] == self.gt_keys[regions][None], part, 0.0).max(1)

    @cached_property
    def _groups(self) -> np.ndarray:
        return duplicate_groups(self.boxes, self.keys, self.duplicate_iou)

    def outcome(self, iou_threshold: float) -> Outcome:
        """Returns the outcome at an IoU threshold."""
        if iou_threshold not in self._outcomes:
            self._outcomes[iou_threshold] = self._outcome(iou_threshold)
        return self._outcomes[iou_threshold]

    @cached_property
    def certain_pairs(self) -> list[tuple[int, int, float]] | None:
        """
        The pairs at `LOWEST_IOU` if no prediction and no object has a choice there: at a higher threshold those remain
        whose IoU reaches it. `None` if there are choices.
        """
        feasible = self.overlaps.iou >= LOWEST_IOU
        if (feasible.sum(0) > 1).any() or (feasible.sum(1) > 1).any():
            return None
        return match_overlaps(self.overlaps, LOWEST_IOU)

    def _outcome(self, iou_threshold: float) -> Outcome:
        if self.certain_pairs is not None and iou_threshold >= LOWEST_IOU:
            pairs = [pair for pair in self.certain_pairs if pair[2] >= iou_threshold]
        else:
            pairs = match_overlaps(self.overlaps, iou_threshold)
        matched = {i for i, _, _ in pairs}
        excused = self.open | (self._in_crowd >= iou_threshold) if self._may_excuse else ()
        ignored = [i for i in np.flatnonzero(excused).tolist() if i not in matched]
        if not self._has_copies:
            return Outcome(pairs, ignored, [])
        judged = self.order if not ignored else self.order[~np.isin(self.order, ignored)]
        return Outcome(pairs, ignored, surplus(self._groups, matched, judged))

    @cached_property
    def _may_excuse(self) -> bool:
        return bool(self.crowd.any() or self.open.any())

    @cached_property
    def _has_copies(self) -> bool:
        return len(np.unique(self._groups)) < len(self._groups)

    def counts(self, outcome: Outcome) -> DetectionCounts:
        """Returns the counts of an outcome."""
        found = len(outcome.pairs)
        return DetectionCounts(
            tp=found,
            fp=len(self.keys) - found - len(outcome.ignored),
            fn=int((~self.crowd).sum()) - found,
            iou_sum=sum(iou for _, _, iou in outcome.pairs),
            duplicates=len(outcome.duplicates),
            images=1,
        )


def _scores(values, count: int) -> np.ndarray:
    scores = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach().reshape(-1).numpy()
    if len(scores) != count:
        raise ValueError(f"scores: got {len(scores)} scores for {count} boxes.")
    if np.isnan(scores).any():
        nan = np.flatnonzero(np.isnan(scores)).tolist()
        raise ValueError(f"scores: NaN at {nan}. Find out where the log-probabilities became NaN.")
    return scores

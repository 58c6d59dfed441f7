# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Precision, recall and F1 of detections from exact integer counts.

Per image, predictions and ground truth (GT) are matched one-to-one within a class, so that 50 copies of a box count as
one true positive. Among all matchings at the IoU threshold the one with the most pairs is taken, and of those the one
with the largest total IoU. Nothing depends on the order of predictions or GT, and no scores are needed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from coordexp_trl.boxes import box_iou
from coordexp_trl.evaluation.samples import Boxes, as_boxes, as_keys

_LARGE, _SMALL = 1e100, 1e-100


@dataclass(frozen=True)
class DetectionCounts:
    """
    Counts of one or more images; add them up with `+` or `sum(counts, DetectionCounts())`.

    Ratios with a zero denominator are 0.0: a model that predicts nothing where there is nothing has F1 0.0, never NaN.

    Args:
        tp (`int`, *optional*, defaults to `0`):
            Matched predictions (true positives).
        fp (`int`, *optional*, defaults to `0`):
            Predictions without a match (false positives).
        fn (`int`, *optional*, defaults to `0`):
            GT objects without a match (false negatives).
        iou_sum (`float`, *optional*, defaults to `0.0`):
            Sum of the IoU of all matches.
        duplicates (`int`, *optional*, defaults to `0`):
            False positives that repeat another prediction, see [`count_duplicates`].
        images (`int`, *optional*, defaults to `0`):
            Number of images.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou_sum: float = 0.0
    duplicates: int = 0
    images: int = 0

    def __add__(self, other: "DetectionCounts") -> "DetectionCounts":
        if not isinstance(other, DetectionCounts):
            return NotImplemented
        return DetectionCounts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def precision(self) -> float:
        """`tp / (tp + fp)`."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """`tp / (tp + fn)`."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """`2 tp / (2 tp + fp + fn)`."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matches."""
        return _ratio(self.iou_sum, self.tp)

    @property
    def duplicate_rate(self) -> float:
        """Duplicates over predictions."""
        return _ratio(self.duplicates, self.tp + self.fp)


def count_detections(
    pred_boxes: Boxes,
    pred_descs: Sequence[str],
    gt_boxes: Boxes,
    gt_descs: Sequence[str],
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    duplicate_iou: float = 0.7,
) -> DetectionCounts:
    """
    Counts the detections of one image.

    Args:
        pred_boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            Predicted boxes of shape `(N, 4)`, xyxy, in the unit of the GT boxes: pixels, bins or `[0, 1]` give the
            same IoU. Inverted corners are sorted; a box that is not finite is a false positive.
        pred_descs (`Sequence[str]`):
            Their `N` descriptions.
        gt_boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            GT boxes of shape `(M, 4)`.
        gt_descs (`Sequence[str]`):
            Their `M` descriptions; equal up to case, spaces and underscores is the same class.
        iou_threshold (`float`, *optional*, defaults to `0.5`):
            Least IoU of a match, in `(0, 1]`.
        class_agnostic (`bool`, *optional*, defaults to `False`):
            Whether to ignore the descriptions.
        duplicate_iou (`float`, *optional*, defaults to `0.7`):
            IoU from which two predictions of a class show the same object, in `(0, 1]`.

    Returns:
        [`DetectionCounts`]: the counts, with `images=1`.

    Raises:
        `ValueError`: if a threshold is out of range, or boxes and descriptions differ in number.

    Example:

    ```python
    >>> box = [0, 0, 10, 10]
    >>> counts = count_detections([box, box], ["cat", "cat"], [box], ["Cat"])
    >>> counts.tp, counts.fp, counts.duplicates, counts.f1
    (1, 1, 1, 0.6666666666666666)
    ```
    """
    pairs = match_detections(pred_boxes, pred_descs, gt_boxes, gt_descs, iou_threshold, class_agnostic)
    return DetectionCounts(
        tp=len(pairs),
        fp=len(pred_descs) - len(pairs),
        fn=len(gt_descs) - len(pairs),
        iou_sum=sum(iou for _, _, iou in pairs),
        duplicates=count_duplicates(pred_boxes, pred_descs, [i for i, _, _ in pairs], duplicate_iou, class_agnostic),
        images=1,
    )


def match_detections(
    pred_boxes: Boxes,
    pred_descs: Sequence[str],
    gt_boxes: Boxes,
    gt_descs: Sequence[str],
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
) -> list[tuple[int, int, float]]:
    """
    Matches the detections of one image; see [`count_detections`] for the arguments and errors.

    Returns:
        `list[tuple[int, int, float]]`: prediction, GT object and IoU of each match. Their order, and the choice among
        equally good matchings, follow the boxes and descriptions and not the order of the input.
    """
    check_threshold("iou_threshold", iou_threshold)
    predictions, pred_keys = _prepare("pred", pred_boxes, pred_descs, class_agnostic)
    truths, gt_keys = _prepare("gt", gt_boxes, gt_descs, class_agnostic)
    overlaps = class_overlaps(predictions, pred_keys, truths, gt_keys)
    return match_overlaps(overlaps, iou_threshold)


@dataclass(frozen=True)
class Overlaps:
    """
    The IoU of the predictions and GT objects of one image within classes, in an order of their own.

    Args:
        iou (`numpy.ndarray`):
            IoU of shape `(N, M)`, -1 where the classes differ.
        pred_order (`numpy.ndarray`):
            Index of the prediction of each row.
        gt_order (`numpy.ndarray`):
            Index of the GT object of each column.
    """

    iou: np.ndarray
    pred_order: np.ndarray
    gt_order: np.ndarray

    def with_columns(self, indices: np.ndarray) -> "Overlaps":
        """Returns the same with other indices for the GT objects."""
        return Overlaps(self.iou, self.pred_order, indices[self.gt_order])


def class_overlaps(
    predictions: torch.Tensor, pred_keys: np.ndarray, truths: torch.Tensor, gt_keys: np.ndarray
) -> Overlaps:
    """Compares boxes, float64 with sorted corners, of equal keys; rows and columns are ordered by key and box."""
    pred_order, gt_order = canonical_order(predictions, pred_keys), canonical_order(truths, gt_keys)
    iou = _iou(predictions[pred_order], truths[gt_order])
    same = pred_keys[pred_order][:, None] == gt_keys[gt_order][None]
    return Overlaps(np.where(same, iou, -1.0), pred_order, gt_order)


def same_class_overlaps(predictions: torch.Tensor, truths: torch.Tensor) -> Overlaps:
    """Returns [`class_overlaps`] of boxes that are all of one class."""
    keys = (np.full(len(boxes), "", dtype=object) for boxes in (predictions, truths))
    return class_overlaps(predictions, next(keys), truths, next(keys))


def match_overlaps(overlaps: Overlaps, iou_threshold: float) -> list[tuple[int, int, float]]:
    """Returns the matching of [`match_detections`]."""
    iou = overlaps.iou
    feasible = iou >= iou_threshold
    rows, columns = np.nonzero(feasible)
    if (feasible.sum(0) > 1).any() or (feasible.sum(1) > 1).any():  # some choice is left
        rows, columns = np.unique(rows), np.unique(columns)
        part = iou[np.ix_(rows, columns)]
        # One more pair is worth more than any sum of IoUs, which is at most min(N, M).
        value = np.where(part >= iou_threshold, part + min(iou.shape) + 1, 0.0)
        chosen = linear_sum_assignment(value, maximize=True)
        rows, columns = rows[chosen[0]], columns[chosen[1]]
        kept = feasible[rows, columns]
        rows, columns = rows[kept], columns[kept]
    found = (overlaps.pred_order[rows], overlaps.gt_order[columns], iou[rows, columns])
    return list(zip(*(values.tolist() for values in found), strict=True))


def count_duplicates(
    boxes: Boxes,
    descs: Sequence[str],
    matched: Sequence[int] = (),
    duplicate_iou: float = 0.7,
    class_agnostic: bool = False,
) -> int:
    """Returns the number of duplicates of one image; see [`find_duplicates`]."""
    return len(find_duplicates(boxes, descs, matched, duplicate_iou, class_agnostic))


def find_duplicates(
    boxes: Boxes,
    descs: Sequence[str],
    matched: Collection[int] = (),
    duplicate_iou: float = 0.7,
    class_agnostic: bool = False,
) -> list[int]:
    """
    Finds the predictions of one image that repeat another one.

    Predictions of one class whose boxes have an IoU of at least `duplicate_iou`, or are equal, are linked; linked ones
    form groups. A group may hold as many predictions as were matched to GT objects, and at least one: the others are
    duplicates. So a pile of `n` copies has `n - 1` duplicates whether or not there is an object below it, two objects
    that truly overlap have none, and nothing depends on the order. Of a group without a match the first by class and
    box is kept.

    Args:
        boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            Predicted boxes of shape `(N, 4)`, xyxy.
        descs (`Sequence[str]`):
            Their `N` descriptions.
        matched (`Sequence[int]`, *optional*, defaults to `()`):
            Indices of the predictions that are matched to GT objects.
        duplicate_iou (`float`, *optional*, defaults to `0.7`):
            IoU from which two predictions show the same object, in `(0, 1]`.
        class_agnostic (`bool`, *optional*, defaults to `False`):
            Whether to ignore the descriptions.

    Returns:
        `list[int]`: indices of the duplicates in ascending order; matched predictions are none.
    """
    check_threshold("duplicate_iou", duplicate_iou)
    boxes, keys = _prepare("pred", boxes, descs, class_agnostic)
    return surplus(duplicate_groups(boxes, keys, duplicate_iou), matched, canonical_order(boxes, keys))


def duplicate_groups(boxes: torch.Tensor, keys: np.ndarray, duplicate_iou: float) -> np.ndarray:
    """Returns the number, shape `(N,)`, of the group of each prediction, see [`find_duplicates`]."""
    values = boxes.numpy()
    same_place = (_iou(boxes, boxes) >= duplicate_iou) | (values[:, None] == values[None]).all(axis=-1)
    linked = same_place & (keys[:, None] == keys[None])
    return connected_components(linked, directed=False)[1] if linked.sum() > len(keys) else np.arange(len(keys))


def surplus(groups: np.ndarray, matched: Collection[int], order: np.ndarray) -> list[int]:
    """Returns the predictions that their groups have no room for, see [`find_duplicates`]; the first ones are kept."""
    if len(np.unique(groups)) == len(groups):
        return []
    matched = set(matched)
    taken = {groups[i] for i in matched}
    found = []
    for i in order:
        if i not in matched:
            if groups[i] in taken:
                found.append(int(i))
            taken.add(groups[i])
    return sorted(found)


def _iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> np.ndarray:
    """[`~boxes.box_iou`] of few boxes with sorted corners, for which NumPy is several times as fast."""
    a, b = boxes1.numpy()[:, None], boxes2.numpy()[None]
    for values in (a, b):
        size = np.abs(values)
        # Where squares could overflow or vanish, the careful way
        if not ((size < _LARGE) & ((size > _SMALL) | (size == 0))).all():
            return box_iou(boxes1, boxes2).numpy()
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inter = sides.clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def check_threshold(name: str, value: float) -> None:
    """Raises a `ValueError` unless an IoU threshold is in `(0, 1]`."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} = {value}: must be in (0, 1].")


def _prepare(name: str, boxes: Boxes, descs: Sequence[str], class_agnostic: bool) -> tuple[torch.Tensor, np.ndarray]:
    """Returns float64 boxes `(N, 4)` with sorted corners, and a class for each."""
    boxes = as_boxes(f"{name}_boxes", boxes)
    return boxes, as_keys(f"{name}_", boxes, descs, class_agnostic)


def canonical_order(boxes: torch.Tensor, keys: np.ndarray) -> np.ndarray:
    """An order by class and box. Boxes that are not finite match nothing, so their place does not matter."""
    rows = [tuple(row) for row in boxes.nan_to_num().tolist()]
    return np.array(sorted(range(len(keys)), key=lambda i: (keys[i], rows[i])), dtype=int)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Finds out whether predictions or ground truth (GT) are given in another convention than pixels, by what fits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from coordexp_trl.boxes import box_iou, sort_corners

MIN_BOXES = 10  # fewer can look like anything
MAX_IMAGES = 500
_MANY = 0.3  # part of the predictions that must lie on an object in the suspected convention
_FACTOR = 2.5  # as many as that more than as they are given
_IOU = 0.5

Change = Callable[[np.ndarray, float, float], np.ndarray]

UNIT = "values between 0 and 1"
CONVENTIONS: dict[str, tuple[Change, str]] = {
    UNIT: (lambda boxes, w, h: boxes * [w, h, w, h], "Multiply them by width and height"),
    "bins or values between 0 and 1000": (
        lambda boxes, w, h: boxes * [w, h, w, h] / 1000,
        "Multiply them by width / 1000 and height / 1000, bins by width / 999 and height / 999",
    ),
    "x, y, width, height": (
        lambda boxes, w, h: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        "Give x1, y1, x2, y2",
    ),
    "y1, x1, y2, x2": (lambda boxes, w, h: boxes[:, [1, 0, 3, 2]], "Give x1, y1, x2, y2"),
    "y1, x1, y2, x2 between 0 and 1000": (
        lambda boxes, w, h: boxes[:, [1, 0, 3, 2]] * [w, h, w, h] / 1000,
        "Give x1, y1, x2, y2 times width / 1000 and height / 1000",
    ),
}


class ComparedBoxes(NamedTuple):
    """
    Args:
        predicted (`numpy.ndarray`):
            Predicted boxes of shape `(N, 4)`, taken for xyxy in pixels.
        truths (`numpy.ndarray`):
            GT boxes of shape `(M, 4)`.
        size (`tuple[int, int]`):
            Width and height of the image.
    """

    predicted: np.ndarray
    truths: np.ndarray
    size: tuple[int, int]


def find_other_convention(images: Sequence[ComparedBoxes]) -> str | None:
    """
    Args:
        images (`Sequence[ComparedBoxes]`):
            The images.

    Returns:
        `str` or `None`: What the boxes of the predictions, or of the GT, seem to be and what to do: if hardly any
        prediction lies on an object as the files are, and many do once one side is read in another convention. Bad
        predictions lie on no object in any.
    """
    images = [each for each in images if len(each.predicted) and len(each.truths)]
    images = images[:: -(-len(images) // MAX_IMAGES) or 1]
    boxes = np.concatenate([each.predicted for each in images]) if images else np.empty((0, 4))
    boxes = boxes[np.isfinite(boxes).all(1)]
    if len(boxes) < MIN_BOXES:
        return None
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if boxes.min() >= 0 and boxes.max() <= 1 and has_area.mean() > 0.5:
        return f"the boxes of the predictions look like {UNIT}, not pixels. {CONVENTIONS[UNIT][1]}."
    as_given = _hits(images)
    if as_given > 1 / _FACTOR:
        return None
    found = []
    for name, (change, remedy) in CONVENTIONS.items():
        found.append((_hits(images, change_predicted=change), "predictions", name, remedy))
        found.append((_hits(images, change_truths=change), "ground truth", name, remedy))
    hits, side, name, remedy = max(found)
    if hits < max(_MANY, _FACTOR * as_given):
        return None
    return (
        f"the boxes of the {side} look like {name}, not x1, y1, x2, y2 in pixels: {as_given:.0%} of the predictions "
        f"lie on an object (IoU {_IOU}), {hits:.0%} would. {remedy}."
    )


def _hits(
    images: Sequence[ComparedBoxes], change_predicted: Change | None = None, change_truths: Change | None = None
) -> float:
    """The part of the predictions that lie on an object, whatever its description."""
    hits = total = 0
    for predicted, truths, size in images:
        predicted = predicted if change_predicted is None else change_predicted(predicted, *size)
        truths = truths if change_truths is None else change_truths(truths, *size)
        iou = box_iou(sort_corners(torch.as_tensor(predicted)), sort_corners(torch.as_tensor(truths)))
        hits += int((iou.amax(1) >= _IOU).sum())
        total += len(predicted)
    return hits / total

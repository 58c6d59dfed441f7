# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What evaluation compares: the predictions and the ground truth (GT) of one image."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from coordexp_trl.boxes import sort_corners
from coordexp_trl.matching import normalize_desc

Boxes = torch.Tensor | np.ndarray | Sequence[Sequence[float]]


@dataclass(frozen=True)
class ImageDetections:
    """
    What was predicted in one image, and the ground truth (GT).

    Args:
        boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            Predicted boxes of shape `(N, 4)`, xyxy, in the unit of the GT boxes: pixels, bins or `[0, 1]`. Inverted
            corners are sorted; a box that is not finite matches nothing.
        descs (`Sequence[str]`):
            Their `N` descriptions.
        scores (`Sequence[float]` or `None`):
            Their `N` scores; larger is more certain. `None` where there are none.
        gt_boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            GT boxes of shape `(M, 4)`.
        gt_descs (`Sequence[str]`):
            Their `M` descriptions; equal up to case, spaces and underscores is the same class.
        gt_crowd (`Sequence[bool]`, *optional*, defaults to `()`):
            Which of the GT boxes are regions of many objects. They need not be found, and what lies in one is ignored.
        gt_areas (`Sequence[float]`, *optional*, defaults to `()`):
            Area of each GT object in square pixels; that of its box by default.
        absent (`Collection[str]`, *optional*):
            Federated GT: descriptions that are known to be absent. Predictions of classes that are neither present nor
            absent are ignored. `None` if the GT names every object of every class.
        incomplete (`Collection[str]`, *optional*, defaults to `()`):
            Federated GT: descriptions of which further objects may lack an annotation; predictions of these without
            a match are ignored.
    """

    boxes: Boxes
    descs: Sequence[str]
    scores: Sequence[float] | None
    gt_boxes: Boxes
    gt_descs: Sequence[str]
    gt_crowd: Sequence[bool] = ()
    gt_areas: Sequence[float] = ()
    absent: Collection[str] | None = None
    incomplete: Collection[str] = field(default=())


def as_boxes(name: str, boxes: Boxes) -> torch.Tensor:
    """Returns float64 boxes of shape `(N, 4)` with sorted corners; `name` is that of the argument, for the error."""
    boxes = torch.as_tensor(boxes, dtype=torch.float64, device="cpu").detach()
    if boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: must have shape (N, 4), got {tuple(boxes.shape)}.")
    return sort_corners(boxes)


def as_keys(prefix: str, boxes: torch.Tensor, descs: Sequence[str], class_agnostic: bool = False) -> np.ndarray:
    """Returns the class of each description, shape `(N,)`, after checking that there is one for each box."""
    if len(boxes) != len(descs):
        raise ValueError(f"{prefix}boxes, {prefix}descs: got {len(boxes)} boxes but {len(descs)} descriptions.")
    return np.array(["" if class_agnostic else normalize_desc(desc) for desc in descs], dtype=object)

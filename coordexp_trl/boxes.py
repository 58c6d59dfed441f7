# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Box overlaps in torch: IoU, GIoU and CIoU, elementwise and pairwise, differentiable and never NaN.

Boxes are xyxy. All three overlaps are invariant to scale, so each pair of boxes is first divided by a power of two (an
exact operation): tiny and huge coordinates neither underflow nor overflow, and no epsilon biases small boxes.

Conventions where the formulas divide zero by zero or meet bad input:

* half precision and integers are computed, and returned, in float32; float64 stays float64;
* a degenerate or inverted box has area 0, two boxes without area have IoU 0, and a ratio with a zero denominator adds
  no penalty; sort inverted corners with [`sort_corners`] where they should count;
* a pair in which a box is not finite has IoU 0, GIoU -1 and CIoU -1, and no gradient.
"""

import math

import torch

_SMALLEST_SCALE = 2.0**-40  # below this magnitude coordinates are left as they are, which bounds the gradients


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    """
    Area of boxes.

    Args:
        boxes (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy.

    Returns:
        `torch.Tensor`: areas of shape `(...)`; 0 for degenerate, inverted and non-finite boxes, and the largest finite
        number where the area overflows.
    """
    (boxes,), finite = _prepare(boxes)
    limit = torch.finfo(boxes.dtype).max
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0, max=limit)
    return _area(size).clamp(max=limit) * finite


def sort_corners(boxes: torch.Tensor) -> torch.Tensor:
    """
    Orders the corners of boxes so that `x1 <= x2` and `y1 <= y2`. Differentiable.

    Args:
        boxes (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy, corners in any order.

    Returns:
        `torch.Tensor`: boxes of shape `(..., 4)`, same dtype.
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)


def elementwise_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """
    Intersection over union of corresponding boxes.

    Args:
        boxes1 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy.
        boxes2 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy; broadcast against `boxes1`.

    Returns:
        `torch.Tensor`: IoU in `[0, 1]`, of shape `(...)`.
    """
    (boxes1, boxes2), finite = _prepare(boxes1, boxes2)
    return torch.where(finite, _iou_and_union(boxes1, boxes2)[0], 0.0)


def elementwise_giou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """
    Generalized IoU of corresponding boxes: `IoU - (|C| - |union|) / |C|`, with `C` the smallest enclosing box.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

    Args:
        boxes1 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy.
        boxes2 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy; broadcast against `boxes1`.

    Returns:
        `torch.Tensor`: GIoU in `[-1, 1]`, of shape `(...)`.
    """
    (boxes1, boxes2), finite = _prepare(boxes1, boxes2)
    iou, union = _iou_and_union(boxes1, boxes2)
    enclosing = _area(_enclosing_size(boxes1, boxes2))
    return torch.where(finite, iou - _ratio((enclosing - union).clamp(min=0), enclosing), -1.0)


def elementwise_ciou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """
    Complete IoU of corresponding boxes: `IoU - d² / c² - alpha * v`.

    `d` is the distance of the centres, `c` the diagonal of the smallest enclosing box,
    `v = 4 / pi² * (atan(w1 / h1) - atan(w2 / h2))²` and `alpha = v / (1 - IoU + v)`, which carries no gradient.

    Source: Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", AAAI 2020.

    Args:
        boxes1 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy.
        boxes2 (`torch.Tensor`):
            Boxes of shape `(..., 4)`, xyxy; broadcast against `boxes1`.

    Returns:
        `torch.Tensor`: CIoU in `(-2, 1]`, of shape `(...)`.
    """
    (boxes1, boxes2), finite = _prepare(boxes1, boxes2)
    iou, _ = _iou_and_union(boxes1, boxes2)
    offset = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]) / 2
    distance = _ratio(offset.square().sum(dim=-1), _enclosing_size(boxes1, boxes2).square().sum(dim=-1))
    aspect = (4 / math.pi**2) * (_aspect_angle(boxes1) - _aspect_angle(boxes2)).square()
    with torch.no_grad():
        alpha = _ratio(aspect, 1 - iou + aspect)
    return torch.where(finite, iou - distance - alpha * aspect, -1.0)


def box_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """
    Pairwise intersection over union.

    Args:
        boxes1 (`torch.Tensor`):
            Boxes of shape `(..., N, 4)`, xyxy.
        boxes2 (`torch.Tensor`):
            Boxes of shape `(..., M, 4)`, xyxy; leading dimensions broadcast.

    Returns:
        `torch.Tensor`: IoU in `[0, 1]`, of shape `(..., N, M)`.
    """
    return elementwise_iou(*_pairs(boxes1, boxes2))


def generalized_box_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """Pairwise [`elementwise_giou`] of boxes `(..., N, 4)` and `(..., M, 4)`, of shape `(..., N, M)`."""
    return elementwise_giou(*_pairs(boxes1, boxes2))


def complete_box_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """Pairwise [`elementwise_ciou`] of boxes `(..., N, 4)` and `(..., M, 4)`, of shape `(..., N, M)`."""
    return elementwise_ciou(*_pairs(boxes1, boxes2))


def _pairs(boxes1: torch.Tensor, boxes2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        if boxes.dim() < 2 or boxes.shape[-1] != 4:
            raise ValueError(f"{name}: must have shape (..., N, 4), got {tuple(boxes.shape)}.")
    return boxes1.unsqueeze(-2), boxes2.unsqueeze(-3)


def _prepare(*boxes: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns float boxes with non-finite ones zeroed, two of them in a common scale, and a mask of finite pairs."""
    for index, box in enumerate(boxes, start=1):
        if box.dim() == 0 or box.shape[-1] != 4:
            raise ValueError(f"boxes{index}: must have shape (..., 4), got {tuple(box.shape)}.")
    dtype = torch.float64 if any(box.dtype == torch.float64 for box in boxes) else torch.float32
    boxes = [box.to(dtype) for box in boxes]
    masks = [box.isfinite().all(dim=-1, keepdim=True) for box in boxes]
    boxes = [torch.where(mask, box, 0.0) for mask, box in zip(masks, boxes, strict=True)]
    if len(boxes) == 1:
        return boxes, masks[0].squeeze(-1)
    largest = torch.maximum(*(box.detach().abs().amax(dim=-1, keepdim=True) for box in boxes))
    largest = largest.clamp(min=_SMALLEST_SCALE)
    scale = largest / (2 * torch.frexp(largest).mantissa)  # the power of two in (largest / 2, largest]
    return [box / scale for box in boxes], (masks[0] & masks[1]).squeeze(-1)


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Division that gives 0, with gradient 0, where the denominator vanishes."""
    positive = denominator > math.sqrt(torch.finfo(denominator.dtype).tiny)
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


def _size(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _area(size: torch.Tensor) -> torch.Tensor:
    return size[..., 0] * size[..., 1]


def _iou_and_union(boxes1: torch.Tensor, boxes2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = _area((bottom_right - top_left).clamp(min=0))
    union = _area(_size(boxes1)) + _area(_size(boxes2)) - intersection
    return _ratio(intersection, union), union


def _enclosing_size(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    boxes1, boxes2 = sort_corners(boxes1), sort_corners(boxes2)  # the hull of an inverted box holds its corners too
    return torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])


def _aspect_angle(boxes: torch.Tensor) -> torch.Tensor:
    """`atan(w / h)`, and 0 for a point, where the angle has no gradient."""
    width, height = _size(boxes).unbind(dim=-1)
    point = width.square() + height.square() <= math.sqrt(torch.finfo(boxes.dtype).tiny)
    return torch.atan2(torch.where(point, 0.0, width), torch.where(point, 1.0, height))

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Losses on matched boxes in [0, 1], one value per box and no reduction."""

import torch

from coordexp_trl.boxes import elementwise_ciou, elementwise_giou, sort_corners


def l1_loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    Sum of the four absolute coordinate errors. Corners are compared as they stand, so an inverted prediction is pulled
    back to the right order.

    Args:
        pred (`torch.Tensor`):
            Predicted boxes of shape `(N, 4)`, xyxy in [0, 1].
        target (`torch.Tensor`):
            Target boxes of shape `(N, 4)`, xyxy in [0, 1].

    Returns:
        `torch.Tensor`: losses of shape `(N,)`.
    """
    return (pred - target).abs().sum(-1)


def giou_loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    1 - GIoU (Rezatofighi et al., 2019), the corners of the predictions sorted first.

    Args:
        pred (`torch.Tensor`):
            Predicted boxes of shape `(N, 4)`, xyxy, corners in any order.
        target (`torch.Tensor`):
            Target boxes of shape `(N, 4)`, xyxy.

    Returns:
        `torch.Tensor`: losses in [0, 2] of shape `(N,)`.
    """
    return 1 - elementwise_giou(sort_corners(pred), target)


def ciou_loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    1 - CIoU (Zheng et al., 2020), the corners of the predictions sorted first.

    Args:
        pred (`torch.Tensor`):
            Predicted boxes of shape `(N, 4)`, xyxy, corners in any order.
        target (`torch.Tensor`):
            Target boxes of shape `(N, 4)`, xyxy.

    Returns:
        `torch.Tensor`: losses of shape `(N,)`.
    """
    return 1 - elementwise_ciou(sort_corners(pred), target)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""How certain the model was of each coordinate: moments of its distribution over the coordinate tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from coordexp_trl.coordinates import CoordinateGrid


def coordinate_moments(logits: torch.Tensor, grid: CoordinateGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and standard deviation of coordinates, for `p = softmax(logits)` over the K coordinate tokens:

        mean = Σ p_k φ(k)        std = (Σ p_k (φ(k) − mean)²)^(1/2)

    Args:
        logits (`torch.Tensor`):
            Logits of shape `(N, K)`, or log-probabilities; `-inf` allowed.
        grid ([`~coordexp_trl.coordinates.CoordinateGrid`]):
            Grid of K bins.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: float32 means and standard deviations in unit coordinates, of shape
        `(N,)`; NaN where the logits are, or where all are `-inf`.
    """
    probabilities = logits.float().softmax(-1)
    values = grid.values(logits.device)
    mean = probabilities @ values
    # Not E[x²] − E[x]², which cancels in float32
    variance = (probabilities * (values - mean[:, None]).square()).sum(-1)
    return mean, variance.sqrt()


def coordinate_ranks(ids: Sequence[int], coord_ids: Sequence[int] | torch.Tensor) -> np.ndarray:
    """
    Args:
        ids (`Sequence[int]`):
            Token ids of a completion.
        coord_ids (`Sequence[int]` or `torch.Tensor`):
            Ids of the coordinate tokens.

    Returns:
        `np.ndarray`: For each token the number of coordinate tokens before it: of a slot, its row in the
        `coord_logits` of a rollout.
    """
    is_slot = np.isin(np.asarray(ids, dtype=np.int64), np.asarray(coord_ids))
    return np.cumsum(is_slot) - is_slot


def edge_coordinates(values: Sequence[float]) -> list[int]:
    """
    Which coordinates of an object make its edges.

    Args:
        values (`Sequence[float]`):
            Coordinates x1, y1, x2, y2 of a box, or x1, y1, x2, y2, x3, ... of a polygon.

    Returns:
        `list[int]`: Indices into `values` of the left, upper, right and lower edge: of a polygon, the coordinate of
        its outermost vertex, the first one if several are.
    """
    if len(values) == 4:
        return [0, 1, 2, 3]
    xs, ys = np.asarray(values[::2]), np.asarray(values[1::2])
    return [2 * int(xs.argmin()), 2 * int(ys.argmin()) + 1, 2 * int(xs.argmax()), 2 * int(ys.argmax()) + 1]

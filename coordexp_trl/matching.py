# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
One-to-one matching of predicted to ground-truth (GT) objects.

Cost of a pair, for boxes in [0, 1] (after DETR, Carion et al., 2020):

    l1_weight * |b_i - b_j|_1 + giou_weight * (1 - GIoU) + desc_weight * (desc_i != desc_j)

With `mask_iou`, polygons are compared as masks: the IoU of a pair that has one, in the gate and in its GIoU, is that
of the areas inside (a box is the polygon of its corners); L1 and the rest of GIoU stay those of the enclosing boxes.

Pairs below `min_iou` are infeasible before the assignment. The result is, among the one-to-one sets of feasible pairs
with the largest number of pairs, one with the least total cost. A duplicate prediction therefore never matches twice.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from coordexp_trl.boxes import elementwise_giou, elementwise_iou, sort_corners
from coordexp_trl.polygons import Points, mask_iou, region

Boxes = torch.Tensor | np.ndarray | Sequence[Sequence[float]]
Polygons = Sequence[Points | None] | None
Candidates = tuple[np.ndarray, np.ndarray]
_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]  # of a box, as the vertices of a polygon


@dataclass(frozen=True)
class MatchingConfig:
    """
    Args:
        min_iou (`float`, *optional*, defaults to `0.3`):
            Least IoU of a pair, in [0, 1], inclusive. At `0.0` disjoint boxes may match too.
        l1_weight (`float`, *optional*, defaults to `5.0`):
            Weight of the L1 distance of the boxes in [0, 1].
        giou_weight (`float`, *optional*, defaults to `2.0`):
            Weight of 1 - GIoU.
        desc_weight (`float`, *optional*, defaults to `1.0`):
            Cost of a pair whose normalised descriptions differ.
        mask_iou (`bool`, *optional*, defaults to `False`):
            Whether pairs in which there is a polygon are compared by mask IoU, see [`~polygons.region`].

    Raises:
        `ValueError`: if `min_iou` is not in [0, 1] or a weight is negative or not finite.
    """

    min_iou: float = 0.3
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    desc_weight: float = 1.0
    mask_iou: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1:
            raise ValueError(f"min_iou = {self.min_iou!r}: must be between 0 and 1.")
        for name in (field.name for field in fields(self) if field.name.endswith("_weight")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} = {value!r}: must be a finite number, 0 or greater.")


@dataclass
class Match:
    """
    Args:
        pairs (`list[tuple[int, int]]`):
            Matched (prediction, GT) indices, sorted by prediction.
        ious (`list[float]`):
            IoU of each pair.
        unmatched_predictions (`list[int]`):
            Extras: predictions without a GT object, ascending.
        unmatched_ground_truth (`list[int]`):
            Misses: GT objects without a prediction, ascending.
    """

    pairs: list[tuple[int, int]]
    ious: list[float]
    unmatched_predictions: list[int]
    unmatched_ground_truth: list[int]


@functools.lru_cache(maxsize=4096)
def normalize_desc(desc: str) -> str:
    """
    A description as it is compared: casefolded, underscores and runs of white space as single spaces, stripped.

    Example:

    ```python
    >>> normalize_desc(" Traffic_ Light\\n")
    'traffic light'
    ```
    """
    return " ".join(desc.casefold().replace("_", " ").split())


def match_objects(
    pred_boxes: Boxes,
    gt_boxes: Boxes,
    pred_descs: Sequence[str],
    gt_descs: Sequence[str],
    config: MatchingConfig = MatchingConfig(),
    pred_polygons: Polygons = None,
    gt_polygons: Polygons = None,
) -> Match:
    """
    Match the predictions of one image to its GT objects.

    Args:
        pred_boxes (`torch.Tensor`, `numpy.ndarray` or sequence):
            Predicted boxes of shape `(N, 4)`, xyxy in [0, 1]. Corners are sorted first; a box that is not finite
            matches nothing.
        gt_boxes (`torch.Tensor`, `numpy.ndarray` or sequence):
            GT boxes of shape `(M, 4)`, xyxy in [0, 1].
        pred_descs (`Sequence[str]`):
            Descriptions of the N predictions.
        gt_descs (`Sequence[str]`):
            Descriptions of the M GT objects.
        config ([`MatchingConfig`], *optional*):
            Gate and cost weights.
        pred_polygons (`Sequence`, *optional*):
            For each prediction the vertices of its polygon in [0, 1], as x1, y1, x2, y2, ... or of shape `(n, 2)`, or
            `None` for a box. Looked at if `config.mask_iou`; `pred_boxes` then holds the enclosing boxes.
        gt_polygons (`Sequence`, *optional*):
            The same of the GT objects.

    Returns:
        [`Match`]: the same for the same input, on every run.

    Raises:
        `ValueError`: if boxes are not of shape `(N, 4)` or their number differs from that of the descriptions or of
            the polygons.

    Example:

    ```python
    >>> boxes = [[0.1, 0.1, 0.4, 0.4], [0.1, 0.1, 0.4, 0.4]]
    >>> match_objects(boxes, boxes[:1], ["cat", "dog"], ["Dog"]).pairs
    [(1, 0)]
    ```
    """
    return match_batch([pred_boxes], [gt_boxes], [pred_descs], [gt_descs], config, [pred_polygons], [gt_polygons])[0]


def match_batch(
    pred_boxes: Sequence[Boxes],
    gt_boxes: Sequence[Boxes],
    pred_descs: Sequence[Sequence[str]],
    gt_descs: Sequence[Sequence[str]],
    config: MatchingConfig = MatchingConfig(),
    pred_polygons: Sequence[Polygons] | None = None,
    gt_polygons: Sequence[Polygons] | None = None,
) -> list[Match]:
    """
    [`match_objects`] for several images, with the costs computed in one pass.

    Args:
        pred_boxes (`Sequence`):
            Predicted boxes of each image.
        gt_boxes (`Sequence`):
            GT boxes of each image.
        pred_descs (`Sequence[Sequence[str]]`):
            Descriptions of each image's predictions.
        gt_descs (`Sequence[Sequence[str]]`):
            Descriptions of each image's GT objects.
        config ([`MatchingConfig`], *optional*):
            Gate and cost weights.
        pred_polygons (`Sequence`, *optional*):
            Polygons of each image's predictions, see [`match_objects`].
        gt_polygons (`Sequence`, *optional*):
            Polygons of each image's GT objects.

    Returns:
        `list[Match]`: one per image, equal to [`match_objects`] of that image.

    Raises:
        `ValueError`: as [`match_objects`], or if the four sequences differ in length.
    """
    lengths = [len(pred_boxes), len(gt_boxes), len(pred_descs), len(gt_descs)]
    if len(set(lengths)) != 1:
        raise ValueError(f"pred_boxes, gt_boxes, pred_descs, gt_descs: lengths {lengths} differ, one entry per image.")
    if not pred_boxes:
        return []
    images = [
        (
            sort_corners(_as_tensor(f"pred_boxes[{index}]", image[0], image[2])).numpy(),
            _as_tensor(f"gt_boxes[{index}]", image[1], image[3]).numpy(),
        )
        for index, image in enumerate(zip(pred_boxes, gt_boxes, pred_descs, gt_descs, strict=True))
    ]
    candidates = [_candidates(preds, gts, config.min_iou) for preds, gts in images]

    # The candidate pairs of all images, P of them, in one row.
    pairs = [(p[i], g[j]) for (p, g), (i, j) in zip(images, candidates, strict=True)]
    preds, gts = (np.concatenate(side) for side in zip(*pairs, strict=True))  # [P, 4]
    ious, gious = _elementwise(elementwise_iou, preds, gts), _elementwise(elementwise_giou, preds, gts)
    if config.mask_iou:
        masks = [
            _mask_ious(
                boxes,
                (
                    _polygons_of("pred_polygons", pred_polygons, index, boxes[0]),
                    _polygons_of("gt_polygons", gt_polygons, index, boxes[1]),
                ),
                pairs,
            )
            for index, (boxes, pairs) in enumerate(zip(images, candidates, strict=True))
        ]
        masks = np.concatenate(masks)
        with_polygon = ~np.isnan(masks)
        gious[with_polygon] += (masks - ious)[with_polygon]
        ious[with_polygon] = masks[with_polygon]
    with np.errstate(invalid="ignore", over="ignore"):
        costs = config.l1_weight * np.abs(preds - gts).sum(-1) + config.giou_weight * (1 - gious)
    costs += config.desc_weight * np.concatenate(
        [_normalized(p)[i] != _normalized(g)[j] for p, g, (i, j) in zip(pred_descs, gt_descs, candidates, strict=True)]
    )
    # A box that is not finite gives an IoU of 0 and a cost that is not finite: infeasible at any gate.
    feasible = (ious >= config.min_iou) & np.isfinite(costs)

    matches, start = [], 0
    for (preds, gts), (i, j) in zip(images, candidates, strict=True):
        part = slice(start, start + len(i))
        kept, start = feasible[part], part.stop
        matches.append(_assign(len(preds), len(gts), i[kept], j[kept], costs[part][kept], ious[part][kept]))
    return matches


def _assign(num_preds: int, num_gts: int, i: np.ndarray, j: np.ndarray, costs: np.ndarray, ious: np.ndarray) -> Match:
    """One-to-one assignment among the feasible pairs `(i, j)` of one image: most pairs first, then least cost."""
    # Scaled to [0, 1], so that trading one infeasible pair for any number of feasible ones always pays.
    costs = costs / (costs.max(initial=0.0) or 1.0)
    cost_matrix = np.full((num_preds, num_gts), 1.0 + min(num_preds, num_gts))
    iou_matrix = np.full((num_preds, num_gts), np.nan)  # NaN: infeasible
    # Among equal costs the earlier prediction wins, so that a copy never takes the place of what it copies.
    cost_matrix[i, j], iou_matrix[i, j] = costs + 1e-9 * i / max(num_preds, 1), ious
    rows, columns = linear_sum_assignment(cost_matrix)
    matched = iou_matrix[rows, columns]
    kept = ~np.isnan(matched)
    rows, columns = rows[kept], columns[kept]
    is_extra, is_miss = np.ones(num_preds, dtype=bool), np.ones(num_gts, dtype=bool)
    is_extra[rows], is_miss[columns] = False, False
    return Match(
        pairs=list(zip(rows.tolist(), columns.tolist(), strict=True)),
        ious=matched[kept].tolist(),
        unmatched_predictions=np.flatnonzero(is_extra).tolist(),
        unmatched_ground_truth=np.flatnonzero(is_miss).tolist(),
    )


def _mask_ious(boxes: Sequence[np.ndarray], polygons: Sequence[Sequence], pairs: Candidates) -> np.ndarray:
    """
    Mask IoU of the candidate pairs of one image, NaN where both are boxes. Boxes, polygons and pairs are couples:
    of the predictions, of the GT objects.
    """
    has_polygon = [np.array([item is not None for item in side], dtype=bool) for side in polygons]
    chosen = has_polygon[0][pairs[0]] | has_polygon[1][pairs[1]]
    regions = []
    for own, side, index in zip(boxes, polygons, pairs, strict=True):
        index = index[chosen].tolist()
        region_of = {k: region(own[k][_CORNERS] if side[k] is None else side[k]) for k in set(index)}
        regions.append([region_of[k] for k in index])
    values = np.full(len(chosen), np.nan)
    values[chosen] = mask_iou(*regions)
    return values


def _polygons_of(name: str, polygons: Sequence[Polygons] | None, index: int, boxes: np.ndarray) -> Sequence:
    """The polygons of one image, `None` for each box."""
    own = None if polygons is None else polygons[index]
    if own is None:
        return [None] * len(boxes)
    if len(own) != len(boxes):
        raise ValueError(
            f"{name}[{index}]: {len(own)} polygons but {len(boxes)} boxes; give one for each box, None where there is "
            "no polygon."
        )
    return own


def _candidates(preds: np.ndarray, gts: np.ndarray, min_iou: float) -> Candidates:
    """Indices `(i, j)` of the pairs that can be feasible: those that overlap, or all if the gate is 0."""
    if min_iou == 0:
        return tuple(index.ravel() for index in np.indices((len(preds), len(gts))))
    left, top, right, bottom = preds.T[:, :, None]  # each [N, 1]
    gt_left, gt_top, gt_right, gt_bottom = gts.T  # each [M]
    overlap_x = np.maximum(left, gt_left) < np.minimum(right, gt_right)
    overlap_y = np.maximum(top, gt_top) < np.minimum(bottom, gt_bottom)
    return np.nonzero(overlap_x & overlap_y)


def _elementwise(function: Callable, preds: np.ndarray, gts: np.ndarray) -> np.ndarray:
    """An overlap of corresponding boxes, in parts so small that torch does not wake its threads for them."""
    parts = zip(torch.from_numpy(preds).split(8000), torch.from_numpy(gts).split(8000), strict=True)
    return torch.cat([function(*boxes) for boxes in parts]).numpy()


def _as_tensor(name: str, boxes: Boxes, descs: Sequence[str]) -> torch.Tensor:
    """The boxes as a float64 CPU tensor of shape `(N, 4)`."""
    if isinstance(boxes, torch.Tensor):
        boxes = boxes.detach().to("cpu", torch.float64)
    else:
        try:
            boxes = torch.from_numpy(np.array(boxes, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: must be numbers of shape (N, 4), xyxy in [0, 1]; {error}") from error
    if len(boxes) != len(descs):
        raise ValueError(f"{name}: {len(boxes)} boxes but {len(descs)} descriptions; give one description per box.")
    if len(boxes) and boxes.shape[1:] != (4,):
        raise ValueError(f"{name}: shape {tuple(boxes.shape)}, must be (N, 4), xyxy in [0, 1].")
    return boxes.reshape(-1, 4)


def _normalized(descs: Sequence[str]) -> np.ndarray:
    return np.array([normalize_desc(desc) for desc in descs], dtype=object)

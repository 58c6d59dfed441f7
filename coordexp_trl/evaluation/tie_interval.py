# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""AP of predictions without scores, as an interval.

AP of a set in which all scores are equal is that of whatever order the tool breaks the ties in. Over all orders, for a
class at an IoU threshold with T objects:

* At most all P pairs of a maximum matching come first. Some order reaches that: every matching in which no prediction
  could do better without another doing worse is what some order of picking yields (Abdulkadiroğlu & Sönmez, 1998), and
  one of the maximum matchings is of that kind.
* At least, all false positives come before the last true positive, but for the copies of that one, so that precision
  there is p / (p + F), which bounds the precision at every smaller recall from below. A prediction that overlaps no
  object is a false positive in any order; one of a group in which every prediction may take every object is one if the
  objects have gone, hence not before them. Groups that are not so simple count with half their maximum matching, which
  no order falls below.

The interval holds every order at once, so the AP of a single order over several thresholds lies within its mean.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from coordexp_trl.evaluation.average_precision import IOU_THRESHOLDS
from coordexp_trl.evaluation.comparison import Comparison

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class _Extremes:
    """Of a class at a threshold: most and fewest true positives, false positives then, copies of the last one."""

    most: int = 0
    fewest: int = 0
    false: int = 0  # with the fewest true positives
    copies: float = np.inf  # fewest in a group, which may come behind its last true positive


def constant_score_interval(
    comparisons: Sequence[Comparison],
    max_detections: int = 100,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> tuple[float, float] | None:
    """
    Bounds AP over all orders of predictions whose scores are equal.

    Args:
        comparisons (`Sequence[Comparison]`):
            The images. Crowd regions and what federated GT does not judge are left out.
        max_detections (`int`, *optional*, defaults to `100`):
            Number of predictions of each class that count in each image.
        iou_thresholds (`Sequence[float]`, *optional*):
            The thresholds over which AP is averaged. Defaults to .50, .55 … .95.

    Returns:
        `tuple[float, float]` or `None`: lower and upper bound, `None` if there is no GT.
    """
    totals: dict[str, int] = defaultdict(int)
    extremes: dict[tuple[str, float], _Extremes] = defaultdict(_Extremes)
    for image in comparisons:
        for key, count in zip(*np.unique(image.gt_keys[~image.crowd].astype(str), return_counts=True), strict=True):
            totals[str(key)] += int(count)
        for threshold in iou_thresholds:
            for key, part in _image_extremes(image, threshold, max_detections):
                found = extremes[key, threshold]
                found.most += part.most
                found.fewest += part.fewest
                found.false += part.false
                found.copies = min(found.copies, part.copies)
    if not totals:
        return None
    bounds = [
        _bounds(extremes[key, threshold], total) for key, total in totals.items() for threshold in iou_thresholds
    ]
    low, high = np.mean(bounds, axis=0)
    return float(low), float(high)


def _bounds(found: _Extremes, total: int) -> tuple[float, float]:
    low = high = 0.0
    if found.most:
        high = _samples(found.most, total)
    if found.fewest:
        before = found.false - (0 if np.isinf(found.copies) else found.copies)
        low = _samples(found.fewest, total) * found.fewest / (found.fewest + before)
    return low, high


def _samples(found: int, total: int) -> float:
    """The part of the 101 recalls that `found` of `total` objects reach."""
    return float((RECALLS <= found / total).mean())


def _image_extremes(image: Comparison, threshold: float, most: int) -> Iterable[tuple[str, _Extremes]]:
    outcome = image.outcome(threshold)
    skipped = np.zeros(len(image.keys), dtype=bool)
    skipped[outcome.ignored] = True
    pairs = defaultdict(int)
    for i, _, _ in outcome.pairs:
        pairs[image.keys[i]] += 1
    groups = defaultdict(list)
    feasible = image.overlaps.iou >= threshold
    matched = np.isin(image.overlaps.pred_order, [i for i, _, _ in outcome.pairs])
    for rows, columns in components(feasible):
        complete = feasible[np.ix_(rows, columns)].all()
        predictions = image.overlaps.pred_order[rows]
        judged = int((~skipped[predictions]).sum())
        groups[image.keys[predictions[0]]].append((judged, complete, int(matched[rows].sum())))
    for key in dict.fromkeys(image.keys[~skipped].tolist()):
        count = int(((image.keys == key) & ~skipped).sum())
        largest = min(pairs[key], most)
        fewest, copies = 0, np.inf
        for predictions, complete, found in groups[key]:
            sure = found if complete else -(-found // 2)
            fewest += sure
            copies = min(copies, predictions - sure if complete else 0)
        if count > most:  # which ones count is a matter of order, too
            fewest, copies = 0, 0
        yield key, _Extremes(largest, fewest, min(count, most) - fewest, copies)


def components(feasible: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns rows and columns of each connected part of a bipartite graph that has an edge."""
    rows, columns = np.nonzero(feasible)
    if not len(rows):
        return []
    n, m = feasible.shape
    graph = csr_array((np.ones(len(rows)), (rows, n + columns)), shape=(n + m, n + m))
    labels = connected_components(graph, directed=False)[1]
    return [
        (np.flatnonzero(labels[:n] == label), np.flatnonzero(labels[n:] == label)) for label in np.unique(labels[rows])
    ]

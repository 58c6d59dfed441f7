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

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from coordexp_trl.evaluation.average_precision import IOU_THRESHOLDS
from coordexp_trl.evaluation.comparison import LOWEST_IOU, Comparison

RECALLS = np.linspace(0.0, 1.0, 101)


class _Extremes:
    """Of C classes at T thresholds: most and fewest true positives, false positives then, copies of the last one."""

    def __init__(self, thresholds: int, classes: int):
        self.most, self.fewest, self.false = (np.zeros((thresholds, classes), dtype=int) for _ in range(3))
        self.copies = np.full((thresholds, classes), np.inf)  # fewest that may come behind the last true positive

    def bounds(self, totals: np.ndarray) -> tuple[float, float]:
        """Means of lower and upper bound, given the number of objects `(C,)` of each class."""
        before = self.false - np.where(np.isinf(self.copies), 0, self.copies)
        precision = self.fewest / np.maximum(self.fewest + before, 1)
        low = _reached(self.fewest, totals) * precision
        return float(low.mean()), float(_reached(self.most, totals).mean())


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
    totals = Counter(key for image in comparisons for key in image.gt_keys[~image.crowd].tolist())
    if not totals:
        return None
    index = {name: k for k, name in enumerate(totals)}
    extremes = _Extremes(len(iou_thresholds), len(index))
    for image in comparisons:
        codes = np.array([index.get(key, -1) for key in image.keys.tolist()], dtype=int)
        judged = codes >= 0
        known = np.unique(codes[judged], return_counts=True)
        for row, threshold in enumerate(iou_thresholds):
            ignored = image.outcome(threshold).ignored
            if ignored:
                kept = judged & ~np.isin(np.arange(len(codes)), ignored)
                part = np.unique(codes[kept], return_counts=True)
                _add_image(extremes, row, image, threshold, codes, kept, *part, max_detections)
            else:
                _add_image(extremes, row, image, threshold, codes, judged, *known, max_detections)
    return extremes.bounds(np.array(list(totals.values())))


def _reached(found: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """The part of the 101 recalls that `found` of `totals` objects reach, 0 without any."""
    samples = np.searchsorted(RECALLS, found / totals, side="right")
    return np.where(found > 0, samples, 0) / len(RECALLS)


def _add_image(
    extremes: _Extremes,
    row: int,
    image: Comparison,
    threshold: float,
    codes: np.ndarray,
    judged: np.ndarray,
    classes: np.ndarray,
    count: np.ndarray,
    most: int,
) -> None:
    if not len(classes):
        return
    outcome = image.outcome(threshold)
    found = [i for i, _, _ in outcome.pairs]
    pairs = np.bincount(np.searchsorted(classes, codes[found]), minlength=len(classes))
    fewest, copies = pairs.copy(), np.where(pairs > 0, 0.0, np.inf)
    if image.certain_pairs is None or threshold < LOWEST_IOU:
        feasible = image.overlaps.iou >= threshold
        fewest, copies = np.zeros_like(pairs), np.full(len(classes), np.inf)
        matched = np.zeros(len(codes), dtype=bool)
        matched[found] = True
        for rows, columns in components(feasible):
            predictions = image.overlaps.pred_order[rows]
            k = np.searchsorted(classes, codes[predictions[0]])
            own = int(matched[predictions].sum())
            complete = feasible[np.ix_(rows, columns)].all()
            sure = own if complete else -(-own // 2)
            fewest[k] += sure
            copies[k] = min(copies[k], judged[predictions].sum() - sure if complete else 0)
    if count.max() > most:  # which ones count is a matter of order, too
        fewest[count > most] = 0
        copies[count > most] = 0
    extremes.most[row, classes] += np.minimum(pairs, most)
    extremes.fewest[row, classes] += fewest
    extremes.false[row, classes] += np.minimum(count, most) - fewest
    extremes.copies[row, classes] = np.minimum(extremes.copies[row, classes], copies)


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

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.f1."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.evaluation.f1 import DetectionCounts, count_detections, count_duplicates, match_detections

NAN = math.nan
BOX = (0, 0, 10, 10)
FAR = (50, 50, 60, 60)


def shifted(dx, box=BOX):
    """The box moved to the right: of a box of width 10 the IoU is (10 - dx) / (10 + dx)."""
    return (box[0] + dx, box[1], box[2] + dx, box[3])


# Predictions, GT, and expected (tp, fp, fn, duplicates).
CASES = [
    ([], [], (0, 0, 0, 0)),
    ([("cat", BOX)], [], (0, 1, 0, 0)),
    ([], [("cat", BOX)], (0, 0, 1, 0)),
    ([("cat", BOX)], [("cat", BOX)], (1, 0, 0, 0)),
    # descriptions are compared without case, underscores and surplus spaces
    ([("Traffic_Light ", BOX)], [("traffic  light", BOX)], (1, 0, 0, 0)),
    # another class is both a false positive and a miss
    ([("dog", BOX)], [("cat", BOX)], (0, 1, 1, 0)),
    # exactly at the threshold (10 x 5 in 10 x 10), and just below
    ([("cat", (0, 0, 10, 5))], [("cat", BOX)], (1, 0, 0, 0)),
    ([("cat", (0, 0, 10, 4.999))], [("cat", BOX)], (0, 1, 1, 0)),
    # 50 copies are one match
    ([("cat", BOX)] * 50, [("cat", BOX)], (1, 49, 0, 49)),
    # 50 copies of nothing: one of them is an ordinary false positive
    ([("cat", FAR)] * 50, [("cat", BOX)], (0, 50, 1, 49)),
    # copies under another description are no duplicates
    ([("cat", BOX), ("dog", BOX)], [("cat", BOX)], (1, 1, 0, 0)),
    # 50 objects found, each written twice
    (
        [("cat", shifted(20 * i)) for i in range(50)] * 2,
        [("cat", shifted(20 * i)) for i in range(50)],
        (50, 50, 0, 50),
    ),
    # two objects that truly overlap by IoU 0.82 are no duplicates when both exist
    ([("cat", BOX), ("cat", shifted(1))], [("cat", BOX), ("cat", shifted(1))], (2, 0, 0, 0)),
    ([("cat", BOX), ("cat", shifted(1))], [("cat", BOX)], (1, 1, 0, 1)),
    # a chain counts as one pile: 0.82 between neighbours, 0.67 between the ends
    ([("cat", BOX), ("cat", shifted(1)), ("cat", shifted(2))], [], (0, 3, 0, 2)),
    # most pairs first: taking the best pair (1, 0) greedily would leave the other two alone
    ([("cat", shifted(-3)), ("cat", BOX)], [("cat", BOX), ("cat", shifted(3))], (2, 0, 0, 0)),
    # inverted corners are sorted; a box without area matches nothing, also not itself
    ([("cat", (10, 10, 0, 0))], [("cat", BOX)], (1, 0, 0, 0)),
    ([("cat", (5, 5, 5, 5))], [("cat", (5, 5, 5, 5))], (0, 1, 1, 0)),
    # equal boxes without area are duplicates all the same
    ([("cat", (5, 5, 5, 5))] * 3, [], (0, 3, 0, 2)),
    # boxes that are not finite are false positives and crash nothing
    ([("cat", (NAN, 0, 10, 10)), ("cat", (0, 0, math.inf, 10)), ("cat", BOX)], [("cat", BOX)], (1, 2, 0, 0)),
    ([("cat", (NAN,) * 4)] * 2, [("cat", (NAN,) * 4)], (0, 2, 1, 0)),
]


def count(predictions, truths, **options):
    pred_descs, pred_boxes = [d for d, _ in predictions], [b for _, b in predictions]
    gt_descs, gt_boxes = [d for d, _ in truths], [b for _, b in truths]
    return count_detections(pred_boxes, pred_descs, gt_boxes, gt_descs, **options)


@pytest.mark.parametrize(("predictions", "truths", "expected"), CASES)
def test_counts(predictions, truths, expected):
    counts = count(predictions, truths)
    assert (counts.tp, counts.fp, counts.fn, counts.duplicates, counts.images) == (*expected, 1)
    assert all(type(value) is int for value in (counts.tp, counts.fp, counts.fn, counts.duplicates))
    assert count(predictions[::-1], truths) == counts
    assert count(predictions, truths[::-1]) == counts


def test_sum_of_iou_is_the_largest_among_the_matchings_with_most_pairs():
    # Both predictions fit both objects; the straight pairing has IoU 1 + 9/11, the crossed one 9/11 + 8/12.
    predictions, truths = [("cat", BOX), ("cat", shifted(1))], [("cat", BOX), ("cat", shifted(2))]
    counts = count(predictions, truths)
    assert counts.tp == 2 and counts.iou_sum == pytest.approx(1 + 9 / 11)
    assert counts.mean_iou == pytest.approx((1 + 9 / 11) / 2)
    assert sorted(match_detections([BOX, shifted(1)], ["cat"] * 2, [BOX, shifted(2)], ["cat"] * 2)) == [
        (0, 0, 1.0),
        (1, 1, pytest.approx(9 / 11)),
    ]


def test_thresholds():
    predictions, truths = [("cat", shifted(2))], [("cat", BOX)]  # IoU 0.667
    assert [count(predictions, truths, iou_threshold=t).tp for t in (0.5, 0.66, 0.67, 0.75)] == [1, 1, 0, 0]
    pile = [("cat", BOX), ("cat", shifted(2))]
    assert [count(pile, [], duplicate_iou=t).duplicates for t in (0.5, 0.66, 0.67, 0.75)] == [1, 1, 0, 0]
    for value in (0, -1, 1.01, NAN):
        with pytest.raises(ValueError, match=f"iou_threshold = {value}"):
            count(predictions, truths, iou_threshold=value)
        with pytest.raises(ValueError, match=f"duplicate_iou = {value}"):
            count(predictions, truths, duplicate_iou=value)


def test_class_agnostic_ignores_descriptions_in_matches_and_duplicates():
    predictions, truths = [("cat", BOX), ("dog", BOX)], [("bird", BOX)]
    assert count(predictions, truths).tp == 0
    counts = count(predictions, truths, class_agnostic=True)
    assert (counts.tp, counts.fp, counts.fn, counts.duplicates) == (1, 1, 0, 1)


@pytest.mark.parametrize("make", [list, np.array, lambda b: torch.tensor(b, dtype=torch.float32, requires_grad=True)])
def test_kinds_of_boxes(make):
    counts = count_detections(make([[0, 0, 10, 10], [0, 0, 10, 9]]), ["a", "b"], make([[0, 0, 10, 10]]), ["a"])
    assert (counts.tp, counts.fp, counts.fn, counts.iou_sum) == (1, 1, 0, 1.0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="pred_boxes, pred_descs: got 1 boxes but 2 descriptions"):
        count_detections([BOX], ["a", "b"], [], [])
    with pytest.raises(ValueError, match=r"gt_boxes: must have shape \(N, 4\), got \(1, 3\)"):
        count_detections([BOX], ["a"], [(1, 2, 3)], ["a"])


def test_ratios():
    counts = DetectionCounts(tp=6, fp=2, fn=4, iou_sum=4.5, duplicates=1, images=3)
    assert counts.precision == 6 / 8
    assert counts.recall == 6 / 10
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert counts.mean_iou == 4.5 / 6
    assert counts.duplicate_rate == 1 / 8
    empty = DetectionCounts()
    assert (empty.precision, empty.recall, empty.f1, empty.mean_iou, empty.duplicate_rate) == (0.0,) * 5


def test_counts_add_up():
    one, two = DetectionCounts(1, 2, 3, 0.5, 1, 1), DetectionCounts(10, 20, 30, 5.0, 10, 1)
    assert one + two == DetectionCounts(11, 22, 33, 5.5, 11, 2)
    assert sum([one, two], DetectionCounts()) == one + two
    with pytest.raises(TypeError):
        one + 1


def best_matching(predictions, truths, threshold):
    """Largest (number of pairs, total IoU), by trying every matching."""

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        intersection = max(width, 0) * max(height, 0)
        union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - intersection
        return intersection / union

    best = (0, 0.0)
    padded = [*truths, *[None] * len(predictions)]
    for chosen in itertools.permutations(padded, len(predictions)):
        values = [
            iou(box, other[1])
            for (desc, box), other in zip(predictions, chosen, strict=True)
            if other is not None and desc == other[0] and iou(box, other[1]) >= threshold
        ]
        best = max(best, (len(values), sum(values)))
    return best


small_box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)
small_object = st.tuples(st.sampled_from(["cat", "dog"]), small_box)


@settings(deadline=None, max_examples=60)
@given(st.lists(small_object, max_size=3), st.lists(small_object, max_size=3), st.sampled_from([0.1, 0.3, 0.5]))
def test_matching_is_the_best_of_all(predictions, truths, threshold):
    counts = count(predictions, truths, iou_threshold=threshold)
    pairs, total = best_matching(predictions, truths, threshold)
    assert counts.tp == pairs
    assert counts.iou_sum == pytest.approx(total)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(small_object, max_size=8),
    st.lists(small_object, max_size=8),
    st.randoms(use_true_random=False),
    st.floats(0.05, 1),
)
def test_order_changes_no_number(predictions, truths, rng, threshold):
    counts = count(predictions, truths, iou_threshold=threshold)
    assert counts.tp + counts.fp == len(predictions) and counts.tp + counts.fn == len(truths)
    assert 0 <= counts.duplicates <= counts.fp
    rng.shuffle(predictions)
    rng.shuffle(truths)
    assert count(predictions, truths, iou_threshold=threshold) == counts  # exactly, iou_sum included


any_float = st.floats(allow_nan=True, allow_infinity=True)
any_object = st.tuples(st.text(max_size=3), st.tuples(*[any_float] * 4))


@settings(deadline=None, max_examples=60)
@given(st.lists(any_object, max_size=6), st.lists(any_object, max_size=6))
def test_any_boxes_are_counted(predictions, truths):
    counts = count(predictions, truths)
    assert counts.tp + counts.fp == len(predictions) and counts.tp + counts.fn == len(truths)
    assert math.isfinite(counts.iou_sum)
    assert count(predictions[::-1], truths[::-1]) == counts


def test_copies_never_raise_f1():
    rng = random.Random(0)
    truths = [("cat", shifted(15 * i)) for i in range(10)]
    predictions = [("cat", shifted(15 * i + rng.uniform(-2, 2))) for i in range(8)]
    before = count(predictions, truths)
    after = count(predictions + predictions[:3], truths)
    assert (after.tp, after.duplicates) == (before.tp, before.duplicates + 3)
    assert after.precision < before.precision and after.f1 < before.f1 and after.recall == before.recall


def test_duplicates_without_ground_truth():
    boxes = [BOX, BOX, FAR, shifted(1), FAR]
    assert count_duplicates(boxes, ["cat"] * 5) == 3
    assert count_duplicates(boxes, ["cat", "dog", "cat", "cat", "cat"]) == 2
    assert count_duplicates(boxes, ["cat"] * 5, matched=[0, 3]) == 2
    assert count_duplicates([], []) == 0

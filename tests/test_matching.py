# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Matching against brute force, and its invariances."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.boxes import box_iou, generalized_box_iou, sort_corners
from coordexp_trl.matching import Match, MatchingConfig, match_batch, match_objects, normalize_desc

NAMES = ["cat", "Cat", "dog", "traffic_light", "traffic light"]


def boxes_and_descs(max_size):
    # A coarse grid, so that equal boxes, zero-area boxes and ties of IoU occur often.
    coordinate = st.integers(0, 6).map(lambda k: k / 6)
    objects = st.tuples(st.lists(coordinate, min_size=4, max_size=4), st.sampled_from(NAMES))
    return st.lists(objects, max_size=max_size).map(lambda items: ([box for box, _ in items], [d for _, d in items]))


def as_boxes(boxes):
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def pair_costs(pred_boxes, gt_boxes, pred_descs, gt_descs, config):
    """The cost of every pair after the formula, infinite where infeasible."""
    preds, gts = sort_corners(as_boxes(pred_boxes)), as_boxes(gt_boxes)
    l1 = (preds[:, None] - gts).abs().sum(-1)
    cost = config.l1_weight * l1 + config.giou_weight * (1 - generalized_box_iou(preds, gts))
    for i, j in itertools.product(range(len(preds)), range(len(gts))):
        cost[i, j] += config.desc_weight * (normalize_desc(pred_descs[i]) != normalize_desc(gt_descs[j]))
    return cost.masked_fill(box_iou(preds, gts) < config.min_iou, math.inf)


def best_by_brute_force(cost):
    """(number of pairs, total cost) of the best one-to-one set: most pairs first, then least cost."""
    if cost.shape[0] > cost.shape[1]:
        cost = cost.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(cost.shape[1]), cost.shape[0]):
        chosen = [cost[i, j].item() for i, j in enumerate(columns) if cost[i, j] < math.inf]
        best = max(best, (len(chosen), -sum(chosen)))
    return best[0], -best[1]


@settings(deadline=None, max_examples=150)
@given(boxes_and_descs(5), boxes_and_descs(5), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]))
def test_equals_brute_force(preds, gts, min_iou):
    config = MatchingConfig(min_iou=min_iou)
    match = match_objects(preds[0], gts[0], preds[1], gts[1], config)
    cost = pair_costs(preds[0], gts[0], preds[1], gts[1], config)
    chosen = [cost[i, j].item() for i, j in match.pairs]
    count, total = best_by_brute_force(cost)
    assert len(chosen) == count
    assert sum(chosen) == pytest.approx(total, abs=1e-9)
    # Bookkeeping: one-to-one, sorted, complete.
    rows, columns = [i for i, _ in match.pairs], [j for _, j in match.pairs]
    assert rows == sorted(set(rows)) and len(columns) == len(set(columns))
    assert match.unmatched_predictions == [i for i in range(len(preds[0])) if i not in rows]
    assert match.unmatched_ground_truth == [j for j in range(len(gts[0])) if j not in columns]
    ious = box_iou(sort_corners(as_boxes(preds[0])), as_boxes(gts[0]))
    assert match.ious == pytest.approx([ious[pair].item() for pair in match.pairs], abs=1e-12)


def random_image(seed, size, noise=0.02):
    """`size` GT boxes and as many noisy predictions of them in another order."""
    rng = np.random.default_rng(seed)
    centre, extent = rng.random((size, 2)), 0.05 + 0.3 * rng.random((size, 2))
    gts = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1).clip(0, 1)
    order = rng.permutation(size)
    preds = (gts[order] + rng.normal(0, noise, gts.shape)).clip(0, 1)
    names = [f"class {k % 5}" for k in range(size)]
    return preds, gts, [names[k] for k in order], names


def test_six_by_six_equals_brute_force():
    config = MatchingConfig(min_iou=0.05)
    for seed in range(3):
        preds, gts, pred_descs, gt_descs = random_image(seed, 6, noise=0.15)
        match = match_objects(preds, gts, pred_descs, gt_descs, config)
        cost = pair_costs(preds, gts, pred_descs, gt_descs, config)
        count, total = best_by_brute_force(cost)
        assert len(match.pairs) == count > 0
        assert sum(cost[pair].item() for pair in match.pairs) == pytest.approx(total)


def test_the_number_of_pairs_comes_before_the_cost():
    # Prediction 0 fits GT 0 perfectly, but it is the only one that can take GT 1.
    gts = [[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4]]
    preds = [[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.3, 0.3]]
    config = MatchingConfig(min_iou=0.3, l1_weight=100.0)
    match = match_objects(preds, gts, ["a", "a"], ["a", "a"], config)
    assert match.pairs == [(0, 1), (1, 0)]
    assert match_objects(preds[:1], gts, ["a"], ["a", "a"], config).pairs == [(0, 0)]


def test_duplicates_match_once():
    box = [0.2, 0.2, 0.7, 0.6]
    match = match_objects([box] * 50, [box], ["book"] * 50, ["book"])
    assert len(match.pairs) == 1 and len(match.unmatched_predictions) == 49
    assert match.ious == [1.0] and match.unmatched_ground_truth == []


def test_the_description_decides_between_equal_boxes():
    box = [0.2, 0.2, 0.7, 0.6]
    match = match_objects([box, box], [box, box], ["dog", "Traffic_Light"], ["traffic  light", "dog"])
    assert match.pairs == [(0, 1), (1, 0)]
    # A wrong description does not forbid a match.
    assert match_objects([box], [box], ["dog"], ["cat"]).pairs == [(0, 0)]


def test_inverted_predictions_match_by_their_sorted_corners():
    box = [0.2, 0.3, 0.7, 0.6]
    for inverted in ([0.7, 0.6, 0.2, 0.3], [0.7, 0.3, 0.2, 0.6]):
        match = match_objects([inverted], [box], ["a"], ["a"])
        assert match.pairs == [(0, 0)] and match.ious == [1.0]


def test_the_gate_is_inclusive_and_zero_admits_disjoint_boxes():
    half = ([[0.0, 0.0, 0.5, 1.0]], [[0.0, 0.0, 1.0, 1.0]], ["a"], ["a"])  # IoU is exactly 0.5
    assert match_objects(*half, MatchingConfig(min_iou=0.5)).pairs == [(0, 0)]
    assert match_objects(*half, MatchingConfig(min_iou=0.5 + 1e-9)).pairs == []
    apart = ([[0.0, 0.0, 0.1, 0.1]], [[0.8, 0.8, 0.9, 0.9]], ["a"], ["a"])
    assert match_objects(*apart, MatchingConfig(min_iou=1e-9)).pairs == []
    assert match_objects(*apart, MatchingConfig(min_iou=0.0)).ious == [0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("min_iou", [0.0, 0.3])
@pytest.mark.filterwarnings("error")
def test_boxes_that_are_not_finite_match_nothing(bad, position, min_iou):
    good = [0.2, 0.2, 0.7, 0.6]
    broken = list(good)
    broken[position] = bad
    config = MatchingConfig(min_iou=min_iou)
    match = match_objects([broken, good], [good], ["a", "a"], ["a"], config)
    assert match.pairs == [(1, 0)]
    if bad != 1e308:  # which is finite, and at a gate of 0 therefore allowed
        assert match_objects([broken], [good], ["a"], ["a"], config) == Match([], [], [0], [0])
        assert match_objects([good], [broken], ["a"], ["a"], config) == Match([], [], [0], [0])


@pytest.mark.filterwarnings("error")
def test_costs_that_overflow_when_added_do_not_reach_the_solver():
    huge = [[0.0, 0.0, 1e307, 1e307]] * 30
    match = match_objects(huge, [[0.0, 0.0, 1.0, 1.0]] * 30, ["a"] * 30, ["a"] * 30, MatchingConfig(min_iou=0.0))
    assert len(match.pairs) == 30


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), torch.zeros(0, 4), torch.zeros(0)])
def test_no_predictions_or_no_ground_truth(empty):
    box = [[0.1, 0.1, 0.5, 0.5]]
    assert match_objects(empty, box, [], ["a"]) == Match([], [], [], [0])
    assert match_objects(box, empty, ["a"], []) == Match([], [], [0], [])
    assert match_objects(empty, empty, [], []) == Match([], [], [], [])
    assert match_batch([], [], [], []) == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(boxes_and_descs(7), boxes_and_descs(7)), min_size=1, max_size=5), st.sampled_from([0, 0.2]))
def test_batch_equals_singles(images, min_iou):
    config = MatchingConfig(min_iou=min_iou)
    columns = [[image[side][part] for image in images] for part in (0, 1) for side in (0, 1)]
    batch = match_batch(*columns, config)
    assert batch == [match_objects(*image, config) for image in zip(*columns, strict=True)]
    assert batch == match_batch(*columns, config)


def test_containers_and_dtypes_agree():
    preds, gts, pred_descs, gt_descs = random_image(0, 20)
    preds, gts = preds.astype(np.float32), gts.astype(np.float32)
    expected = match_objects(preds, gts, pred_descs, gt_descs)
    assert len(expected.pairs) > 10
    as_tensor = torch.from_numpy(preds).requires_grad_()
    assert match_objects(as_tensor, torch.from_numpy(gts), pred_descs, gt_descs) == expected
    assert match_objects(preds.tolist(), gts.tolist(), pred_descs, gt_descs) == expected
    half = match_objects(torch.from_numpy(preds).bfloat16(), gts, pred_descs, gt_descs)
    assert len(half.pairs) > 10


def test_permuting_the_ground_truth_relabels_the_match():
    for seed in range(5):
        preds, gts, pred_descs, gt_descs = random_image(seed, 15)
        order = np.random.default_rng(seed + 100).permutation(15)
        match = match_objects(preds, gts, pred_descs, gt_descs)
        permuted = match_objects(preds, gts[order], pred_descs, [gt_descs[k] for k in order])
        assert [(i, int(order[j])) for i, j in permuted.pairs] == match.pairs
        assert permuted.ious == match.ious and len(match.pairs) > 5


@pytest.mark.parametrize(
    ("desc", "normalized"),
    [
        ("cat", "cat"),
        ("Black CAT", "black cat"),
        ("traffic_light", "traffic light"),
        ("  traffic \t\n light ", "traffic light"),
        ("_traffic__light_", "traffic light"),
        ("Straße", "strasse"),  # casefold, not lower
        ("a\u00a0b", "a b"),  # no-break space
        ("T-shirt, red", "t-shirt, red"),  # punctuation counts
        ("_ _", ""),
        ("", ""),
    ],
)
def test_normalize_desc(desc, normalized):
    assert normalize_desc(desc) == normalized == normalize_desc(normalized)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_iou", -0.1),
        ("min_iou", 1.5),
        ("min_iou", math.nan),
        ("l1_weight", -1.0),
        ("giou_weight", math.inf),
        ("desc_weight", math.nan),
    ],
)
def test_config_rejects_bad_values(field, value):
    with pytest.raises(ValueError, match=rf"{field} = {value!r}"):
        MatchingConfig(**{field: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 0, 1, 1]], [], [], []), r"pred_boxes\[0\]: 1 boxes but 0 descriptions"),
        (([], [[0, 0, 1, 1]], [], ["a", "b"]), r"gt_boxes\[0\]: 1 boxes but 2 descriptions"),
        (([[0, 0, 1]], [], ["a"], []), r"pred_boxes\[0\]: shape \(1, 3\)"),
        (([[0, 0, 1, 1], [0]], [], ["a"] * 2, []), r"pred_boxes\[0\]: must be numbers of shape \(N, 4\)"),
        (([[0, 0, 1, "x"]], [], ["a"], []), r"pred_boxes\[0\]: must be numbers"),
        (([0, 0, 1, 1], [], ["a"] * 4, []), r"pred_boxes\[0\]: shape \(4,\)"),  # one box, not a list of boxes
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        match_objects(*arguments)


def test_batch_lengths_must_agree():
    with pytest.raises(ValueError, match="differ"):
        match_batch([[]], [], [[]], [[]])


def test_speed():
    images = [random_image(seed, 60) for seed in range(64)]
    columns = list(zip(*images, strict=True))
    seconds = []
    for _ in range(5):
        start = time.process_time()  # the time of other processes does not count
        match_batch(*columns)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


# Polygons

LOWER, UPPER = [0.2, 0.2, 0.6, 0.6, 0.2, 0.6], [0.2, 0.2, 0.6, 0.2, 0.6, 0.6]  # the two triangles of one square
BOX = [0.2, 0.2, 0.6, 0.6]
MASKS = MatchingConfig(min_iou=0.3, mask_iou=True)


def test_masks_tell_polygons_apart_that_have_the_same_box():
    arguments = ([BOX, BOX], [BOX, BOX], ["cat", "cat"], ["cat", "cat"])
    polygons = ([LOWER, UPPER], [UPPER, LOWER])
    assert match_objects(*arguments, MatchingConfig(min_iou=0.3), *polygons).pairs == [(0, 0), (1, 1)]
    by_mask = match_objects(*arguments, MASKS, *polygons)
    assert by_mask.pairs == [(0, 1), (1, 0)] and by_mask.ious == pytest.approx([1.0, 1.0])
    apart = match_objects([BOX], [BOX], ["cat"], ["cat"], MASKS, [LOWER], [UPPER])
    assert (apart.pairs, apart.unmatched_predictions, apart.unmatched_ground_truth) == ([], [0], [0])


def test_a_box_is_the_polygon_of_its_corners():
    half = MatchingConfig(min_iou=0.5 - 1e-9, mask_iou=True)
    for polygons in (([LOWER], None), ([None], [LOWER]), (None, [np.reshape(LOWER, (-1, 2))])):
        match = match_objects([BOX], [BOX], ["cat"], ["cat"], half, *polygons)
        assert match.pairs == [(0, 0)] and match.ious == pytest.approx([0.5])
    inverted = match_objects([[0.6, 0.6, 0.2, 0.2]], [BOX], ["cat"], ["cat"], half, None, [LOWER])
    assert inverted.ious == pytest.approx([0.5])


@settings(deadline=None, max_examples=60)
@given(boxes_and_descs(6), boxes_and_descs(6), st.sampled_from([0.0, 0.3]))
def test_without_polygons_masks_change_nothing(preds, gts, min_iou):
    arguments = (preds[0], gts[0], preds[1], gts[1])
    plain = match_objects(*arguments, MatchingConfig(min_iou=min_iou))
    masks = MatchingConfig(min_iou=min_iou, mask_iou=True)
    assert match_objects(*arguments, masks) == plain
    assert match_objects(*arguments, masks, [None] * len(preds[0]), [None] * len(gts[0])) == plain


def test_the_cost_of_masks_after_the_formula():
    # Neither prediction has the IoU to win by it alone: 2 * (1 - GIoU) + 5 * L1 decides
    config = MatchingConfig(min_iou=0.1, mask_iou=True)
    shifted = [0.25, 0.2, 0.65, 0.6]
    moved = [0.25, 0.2, 0.65, 0.6, 0.25, 0.6]  # LOWER, a little to the right
    match = match_objects([BOX, shifted], [BOX], ["cat", "cat"], ["cat"], config, [UPPER, moved], [LOWER])
    assert match.pairs == [(1, 0)] and 0.1 < match.ious[0] < 1
    match = match_objects([BOX, shifted], [BOX], ["cat", "cat"], ["cat"], config, [LOWER, moved], [LOWER])
    assert match.pairs == [(0, 0)]


def test_a_batch_with_polygons_equals_its_images():
    rng = np.random.default_rng(0)
    images = []
    for count in (3, 0, 5):
        points = rng.random((2, count, 4, 2))
        boxes = np.concatenate([points.min(2), points.max(2)], axis=-1)
        polygons = [[None if k == 1 else shape for k, shape in enumerate(side)] for side in points]
        images.append((*boxes, ["cat"] * count, ["cat"] * count, *polygons))
    config = MatchingConfig(min_iou=0.0, mask_iou=True)
    *arguments, pred_polygons, gt_polygons = map(list, zip(*images, strict=True))
    batch = match_batch(*arguments, config, pred_polygons, gt_polygons)
    assert batch == [match_objects(*image[:4], config, *image[4:]) for image in images]
    assert [len(match.pairs) for match in batch] == [3, 0, 5]


@pytest.mark.parametrize("polygon", [[0.3] * 6, [0, 0, 1, 1, 0.5, 0.5], [0, 0, 1, 0, 1, float("nan")]])
def test_polygons_without_area_match_nothing(polygon):
    match = match_objects([BOX], [BOX], ["cat"], ["cat"], MASKS, [polygon], [UPPER])
    assert match.pairs == []
    (pair,) = match_objects([BOX], [BOX], ["cat"], ["cat"], MatchingConfig(0.0, mask_iou=True), [polygon]).pairs
    assert pair == (0, 0)


def test_the_number_of_polygons_is_checked():
    with pytest.raises(ValueError, match=r"gt_polygons\[0\]: 2 polygons but 1 boxes.*None"):
        match_objects([BOX], [BOX], ["cat"], ["cat"], MASKS, None, [UPPER, LOWER])

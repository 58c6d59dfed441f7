# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.boxes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.boxes import (
    box_area,
    box_iou,
    complete_box_iou,
    elementwise_ciou,
    elementwise_giou,
    elementwise_iou,
    generalized_box_iou,
    sort_corners,
)

ELEMENTWISE = [elementwise_iou, elementwise_giou, elementwise_ciou]
PAIRWISE = [box_iou, generalized_box_iou, complete_box_iou]
LOWEST = {elementwise_iou: 0.0, elementwise_giou: -1.0, elementwise_ciou: -2.0}
ANY_FLOAT = st.floats(width=32)
FINITE_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
SPECIAL = [0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-20, 1e-7, 1 + 1e-6, 1e6, 1e19, 1e20, 3e38, -3e38]


def reference(box1, box2):
    """IoU, GIoU and CIoU of two ordinary boxes, written from the papers in plain floats."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = box1, box2
    intersection = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    width, height = max(ax2, bx2) - min(ax1, bx1), max(ay2, by2) - min(ay1, by1)
    iou = intersection / union
    giou = iou - (width * height - union) / (width * height)
    centres = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan((ax2 - ax1) / (ay2 - ay1)) - math.atan((bx2 - bx1) / (by2 - by1))) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return iou, giou, iou - centres / (width**2 + height**2) - alpha * v


def ordinary_boxes(count, seed=0, size=1000.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.8, (count, 2))
    extent = rng.uniform(0.001, 0.6, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + extent], axis=1) * size)


def tensors(numbers, max_rows=6):
    rows = st.lists(st.lists(numbers | st.sampled_from(SPECIAL), min_size=4, max_size=4), max_size=max_rows)
    return rows.map(lambda values: torch.tensor(values, dtype=torch.float32).reshape(-1, 4))


@pytest.mark.parametrize(
    ("box1", "box2", "iou", "giou", "ciou"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1, 1),  # identical
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 3, 1 / 3 - 1 / 13),  # half overlapping, the same shape
        ([0, 0, 1, 1], [1, 1, 2, 2], 0, -0.5, -0.25),  # touching at a corner
        ([0, 0, 1, 1], [3, 0, 4, 1], 0, -0.5, -9 / 17),  # apart
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25, 0.25, 0.25),  # nested, the same centre and shape
        ([0, 0, 4, 2], [1, 0, 3, 2], 0.5, 0.5, None),  # nested, another shape: only CIoU sees it
        ([0, 0, 0, 0], [0, 0, 2, 2], 0, 0, -0.3),  # a point at the corner of a box: nothing beside the union
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0, 0),  # one point twice: nothing to measure
        ([0, 0, 0, 0], [2, 2, 2, 2], 0, -1, -1),  # two points
        ([0, 3, 9, 3], [0, 3, 9, 3], 0, 0, 0),  # one line twice
        ([3, 3, 1, 1], [1, 1, 3, 3], 0, 0, None),  # inverted: no area
        ([math.nan, 0, 1, 1], [0, 0, 1, 1], 0, -1, -1),  # not finite
        ([0, 0, math.inf, 1], [0, 0, math.inf, 1], 0, -1, -1),  # not finite, even if equal
    ],
)
def test_known_values(box1, box2, iou, giou, ciou):
    for function, expected in zip(ELEMENTWISE, (iou, giou, ciou), strict=True):
        if expected is not None:
            value = function(torch.tensor(box1, dtype=torch.float64), torch.tensor(box2, dtype=torch.float64))
            assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_equal_to_reference(dtype, tolerance, size):
    boxes1, boxes2 = ordinary_boxes(30, 0, size).to(dtype), ordinary_boxes(40, 1, size).to(dtype)
    expected = np.array([[reference(a, b) for b in boxes2.tolist()] for a in boxes1.tolist()])
    for index, function in enumerate(PAIRWISE):
        values = function(boxes1, boxes2)
        assert values.shape == (30, 40) and values.dtype == dtype
        np.testing.assert_allclose(values.numpy(), expected[..., index], atol=tolerance, rtol=0)


def test_small_boxes_far_from_the_origin_are_exact():
    # Powers of two keep these float32 coordinates exact, so the overlap must be exact as well.
    box1 = torch.tensor([4096.0, 4096.0, 4096.25, 4096.25])
    box2 = torch.tensor([4096.125, 4096.0, 4096.375, 4096.25])
    assert elementwise_iou(box1, box2).item() == pytest.approx(1 / 3, abs=1e-7)


@settings(deadline=None)
@given(tensors(ANY_FLOAT), tensors(ANY_FLOAT), st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_any_floats_stay_in_range(boxes1, boxes2, dtype):
    boxes1, boxes2 = boxes1.to(dtype), boxes2.to(dtype)
    for pairwise, elementwise in zip(PAIRWISE, ELEMENTWISE, strict=True):
        values = pairwise(boxes1, boxes2)
        assert values.shape == (len(boxes1), len(boxes2))
        assert ((values >= LOWEST[elementwise]) & (values <= 1)).all()
        assert torch.allclose(values, pairwise(boxes2, boxes1).T, rtol=0, atol=1e-6)  # symmetric
    assert (generalized_box_iou(boxes1, boxes2) <= box_iou(boxes1, boxes2)).all()
    assert (complete_box_iou(boxes1, boxes2) <= box_iou(boxes1, boxes2)).all()
    area = box_area(boxes1)
    assert (area >= 0).all() and area.isfinite().all()


@settings(deadline=None)
@given(tensors(FINITE_FLOAT), tensors(FINITE_FLOAT), st.sampled_from([torch.float32, torch.float64]))
def test_gradients_are_never_nan(boxes1, boxes2, dtype):
    count = min(len(boxes1), len(boxes2))
    boxes1, boxes2 = (boxes[:count].to(dtype).requires_grad_() for boxes in (boxes1, boxes2))
    for function in ELEMENTWISE:
        for other in (boxes2, boxes1.detach(), boxes1.detach().roll(1, dims=-1)):  # also identical and turned boxes
            for sort in (lambda boxes: boxes, sort_corners):
                grads = torch.autograd.grad(function(sort(boxes1), sort(other)).sum(), boxes1)
                assert not grads[0].isnan().any()
    (grad,) = torch.autograd.grad(box_area(boxes1).sum(), boxes1)
    assert not grad.isnan().any()


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8),
    st.floats(1e-6, 1e6),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_scale_and_shift_change_nothing(rows, scale, shift):
    boxes = sort_corners(torch.tensor(rows, dtype=torch.float64))
    boxes[:, 2:] += 0.01
    moved = (boxes + torch.tensor(shift * 2, dtype=torch.float64)) * scale
    for function in PAIRWISE:
        torch.testing.assert_close(function(moved, moved), function(boxes, boxes), rtol=0, atol=1e-9)
        assert (function(boxes, boxes).diagonal() == 1).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e18, 1e30])
def test_float32_keeps_values_at_any_scale(scale):
    boxes = ordinary_boxes(8, size=1.0)
    scaled = (boxes * scale).float()
    for function in PAIRWISE:
        if scale >= 1e-12:
            torch.testing.assert_close(function(scaled, scaled).double(), function(boxes, boxes), rtol=0, atol=1e-5)
        assert function(scaled, scaled).isfinite().all()


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_gradient_equals_numerical_gradient(function):
    boxes1, boxes2 = ordinary_boxes(20, 2, 1.0).requires_grad_(), ordinary_boxes(20, 3, 1.0)
    (grad,) = torch.autograd.grad(function(boxes1, boxes2).sum(), boxes1)
    if function is elementwise_ciou:  # alpha carries no gradient, so differentiate with alpha held fixed
        with torch.no_grad():
            angle = [torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])) for b in (boxes1, boxes2)]
            v = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
            alpha = v / (1 - elementwise_iou(boxes1, boxes2) + v)

        def value(boxes):
            ratio = torch.atan((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
            v_now = 4 / math.pi**2 * (ratio - angle[1]) ** 2
            alpha_now = v_now / (1 - elementwise_iou(boxes, boxes2) + v_now)
            return function(boxes, boxes2) + (alpha_now - alpha) * v_now
    else:

        def value(boxes):
            return function(boxes, boxes2)

    with torch.no_grad():
        for column in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[column] = 1e-6
            numerical = (value(boxes1 + step) - value(boxes1 - step)) / 2e-6
            torch.testing.assert_close(grad[:, column], numerical, rtol=1e-4, atol=1e-5)


def test_giou_pulls_distant_boxes_together():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    (-elementwise_giou(boxes, torch.tensor([[3.0, 0.0, 4.0, 1.0]]))).sum().backward()
    assert boxes.grad[0, 2] < 0  # descending moves the right edge towards the other box


@pytest.mark.parametrize(
    ("dtype1", "dtype2", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.int64, torch.int64, torch.float32),
        (torch.int64, torch.float64, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype1, dtype2, expected):
    boxes1 = torch.tensor([[0, 0, 200, 300]], dtype=dtype1)  # an area beyond the range of float16
    boxes2 = torch.tensor([[100, 0, 300, 300]], dtype=dtype2)
    for function in PAIRWISE:
        assert function(boxes1, boxes2).dtype == expected
    assert box_iou(boxes1, boxes2).item() == pytest.approx(1 / 3, abs=1e-6)
    assert box_area(boxes1).item() == 60000


@pytest.mark.parametrize("index", range(3))
def test_batches_equal_single_boxes(index):
    boxes1, boxes2 = ordinary_boxes(24, 5).reshape(2, 3, 4, 4), ordinary_boxes(10, 6).reshape(2, 1, 5, 4)
    values = PAIRWISE[index](boxes1, boxes2)
    assert values.shape == (2, 3, 4, 5)
    for a, b, n, m in np.ndindex(2, 3, 4, 5):
        assert values[a, b, n, m] == ELEMENTWISE[index](boxes1[a, b, n], boxes2[a, 0, m])
    huge = torch.cat([boxes1[0, 0], torch.full((1, 4), 1e300, dtype=torch.float64)])
    assert torch.equal(PAIRWISE[index](huge, boxes2[0, 0])[:4], values[0, 0])  # no box disturbs another


def test_empty():
    boxes = ordinary_boxes(3)
    for function in PAIRWISE:
        assert function(boxes[:0], boxes).shape == (0, 3)
        assert function(boxes, boxes[:0]).shape == (3, 0)
    assert box_area(boxes[:0]).shape == (0,)


def test_box_area():
    boxes = torch.tensor([[0, 0, 2, 3], [2, 3, 0, 0], [1, 1, 1, 5], [0, 0, math.nan, 1], [-3e38, -3e38, 3e38, 3e38]])
    limit = torch.finfo(torch.float32).max
    assert box_area(boxes).tolist() == [6, 0, 0, 0, limit]


def test_sort_corners():
    boxes = torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    ordered = sort_corners(boxes)
    assert ordered.tolist() == [[1, 1, 3, 2], [0, 0, 1, 1]]
    (ordered * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert boxes.grad.tolist() == [[3, 2, 1, 4], [1, 2, 3, 4]]  # each gradient reaches the corner it came from


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"boxes1.*\(\.\.\., 4\).*\(2, 5\)"):
        elementwise_iou(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"boxes2.*\(\.\.\., N, 4\).*\(2, 3\)"):
        box_iou(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"boxes1.*N, 4"):
        box_iou(torch.zeros(4), torch.zeros(2, 4))

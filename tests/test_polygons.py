# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Polygons: masks against exact areas, correspondence of vertices on cases solved by hand, and hostile input."""

import time
import warnings

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.polygons import as_points, extremes, mask_iou, outline_targets, region, vertex_targets

GRID = CoordinateGrid()
SQUARE = [0.2, 0.2, 0.6, 0.2, 0.6, 0.6, 0.2, 0.6]
SHAPE = [100, 110, 300, 120, 280, 400, 180, 300, 90, 350, 50, 200]  # in bins, not convex

# A coarse grid, so that repeated vertices, collinear edges and crossings occur often.
vertices = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=10)
shapes = vertices.map(lambda points: [199 * k for point in points for k in point])


def iou(first, second) -> float:
    return float(mask_iou([region(first)], [region(second)])[0])


# Masks


@pytest.mark.parametrize(
    ("polygon", "area"),
    [
        (SQUARE, 0.16),
        (SQUARE[::-1], 0.16),  # the other direction
        ([0, 0, 1, 0, 0, 1], 0.5),  # a triangle
        ([0, 0, 1, 0, 0, 1, 0, 0], 0.5),  # closed explicitly
        ([0, 0, 1, 0, 1, 0, 1, 0, 0, 1], 0.5),  # repeated vertices
        ([0, 0, 1, 1, 1, 0, 0, 1], 0.5),  # a bow-tie: both halves
        (SQUARE * 2, 0.16),  # written twice
        ([0, 0, 1, 0, 1, 1, 0.5, 0.5, 1, 1, 0, 1], 1.0),  # a spike inwards encloses nothing
        ([0.3] * 6, 0.0),  # a point
        ([0, 0, 1, 1, 0.5, 0.5], 0.0),  # a line
        ([0, 0, 1, 0, 0, 0], 0.0),  # there and back
        ([0, 0, 1, 0, 1, float("nan")], 0.0),
        ([0, 0, 1, 0, 1, float("inf")], 0.0),
    ],
)
def test_the_area_inside_a_polygon(polygon, area):
    assert region(polygon).is_valid
    assert region(polygon).area == pytest.approx(area)
    assert region(np.reshape(polygon, (-1, 2))).equals(region(polygon))
    assert iou(polygon, polygon) == pytest.approx(1.0 if area else 0.0)


def test_mask_iou_by_hand():
    shifted = [0.4, 0.2, 0.8, 0.2, 0.8, 0.6, 0.4, 0.6]  # half of the square
    assert iou(SQUARE, shifted) == pytest.approx(1 / 3)
    assert iou([0.2, 0.2, 0.6, 0.2, 0.2, 0.6], SQUARE) == pytest.approx(0.5)
    assert iou([0.2, 0.2, 0.6, 0.2, 0.2, 0.6], [0.6, 0.6, 0.6, 0.2, 0.2, 0.6]) == 0.0  # one edge in common
    assert mask_iou([], []).shape == (0,)


@settings(deadline=None, max_examples=200)
@given(shapes, shapes)
def test_mask_iou_of_anything_is_a_number(first, second):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = iou(np.array(first) / 999, np.array(second) / 999)
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(iou(np.array(second) / 999, np.array(first) / 999))


# Correspondence


def rolled(bins, vertices: int) -> list[int]:
    return [*bins[2 * vertices :], *bins[: 2 * vertices]]


def reversed_(bins) -> list[int]:
    return as_points(bins)[::-1].astype(int).ravel().tolist()


def test_a_right_polygon_gets_its_own_vertices_whatever_their_start_and_direction():
    for wanted in (SHAPE, [100, 100, 300, 100, 300, 300], [0, 0, 999, 0, 999, 999, 0, 999]):
        for start in range(len(wanted) // 2):
            for predicted in (rolled(wanted, start), rolled(reversed_(wanted), start)):
                assert vertex_targets(predicted, wanted, GRID) == dict(enumerate(predicted))


@pytest.mark.parametrize("shift", [(40, -30), (300, 300), (-50, -110)])
def test_a_shifted_polygon_is_shifted_back(shift):
    predicted = (as_points(SHAPE) + shift).astype(int).ravel().tolist()
    assert vertex_targets(rolled(predicted, 2), SHAPE, GRID) == dict(enumerate(rolled(SHAPE, 2)))


def test_other_sizes_are_brought_near_their_vertices():
    wanted = as_points(SHAPE)
    middle = wanted.mean(0)
    for factor in (0.8, 1.2):
        predicted = (middle + factor * (wanted - middle)).round().astype(int)
        targets = as_points(list(vertex_targets(predicted.ravel().tolist(), SHAPE, GRID).values()))
        before, after = (np.hypot(*(points - wanted).T) for points in (predicted, targets))
        assert after.max() < 8 < before.max() and after.mean() < before.mean() / 4  # bins


def test_polygons_with_other_numbers_of_vertices_are_not_drawn_inwards():
    # Means of vertices would lie within the outline: the middle of the left and the right side, for a triangle
    square = as_points(SQUARE)
    fine = np.concatenate([np.linspace(a, b, 5)[:-1] for a, b in zip(square, np.roll(square, -1, 0), strict=True)])
    rng = np.random.default_rng(0)
    for pred, gt in ((fine, square), (square, fine), (square[:3], fine)):
        targets = outline_targets(pred + rng.normal(0, 0.01, pred.shape), gt)
        outline = shapely.linestrings(np.concatenate([gt, gt[:1]]))
        assert shapely.distance(outline, shapely.points(targets)).max() < 1e-9
        if len(pred) > 3:
            assert np.hypot(*(targets - pred).T).max() < 0.05
            assert shapely.Polygon(targets).area > 0.9 * 0.16


def test_a_box_has_something_to_say_to_the_outermost_coordinates_only():
    box = (40, 100, 310, 390)
    targets = vertex_targets(SHAPE, box, GRID)
    assert targets == {10: 40, 1: 100, 2: 310, 5: 390}
    assert [SHAPE[k] for k in extremes(SHAPE)] == [50, 110, 300, 400]


@given(shapes)
@example([7] * 6)
def test_extremes_are_four_coordinates_of_the_enclosing_box(bins):
    left, top, right, bottom = extremes(bins)
    assert (bins[left], bins[right]) == (min(bins[::2]), max(bins[::2]))
    assert (bins[top], bins[bottom]) == (min(bins[1::2]), max(bins[1::2]))
    assert len({left, top, right, bottom}) == 4
    assert left % 2 == right % 2 == 0 and top % 2 == bottom % 2 == 1


@settings(deadline=None, max_examples=100)
@given(shapes, shapes)
@example([5] * 6, [5] * 6)
@example([5] * 6, SHAPE)
@example(SHAPE, [5] * 6)
@example([0, 0, 999, 999, 0, 0], [999, 0, 0, 999, 500, 500])
@example([0, 0] * 50 + [999, 999], [999, 999] * 50 + [0, 0])  # as far from their middles as can be
@example([0, 0, 1, 0, 1, 1] * 200 + [999, 999, 0, 1], [3, 3, 4, 3, 4, 4])  # an outlier that is not among the samples
def test_targets_of_anything_are_bins(predicted, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        targets = vertex_targets(predicted, wanted, GRID)
    assert list(targets) == list(range(len(predicted)))
    assert all(0 <= k <= 999 for k in targets.values())


def test_time_is_linear_for_thousands_of_random_vertices():
    rng = np.random.default_rng(0)

    def seconds(count: int) -> float:
        pred, gt = rng.random((count, 2)), rng.random((count, 2))
        start = time.thread_time()
        assert np.isfinite(outline_targets(pred, gt)).all()
        assert 0 < iou(pred, gt) < 1
        return time.thread_time() - start

    seconds(500)
    # 32 times the vertices, of which a quadratic reader would take a thousand times as long, a cubic one hours
    assert seconds(16_000) < 80 * min(seconds(500) for _ in range(3))

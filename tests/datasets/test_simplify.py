# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.simplify."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.datasets.simplify import simplify_polygon


def circle(num, radius=50.0, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
    radii = radius * (1 + noise * rng.uniform(-1, 1, num))
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + 60).ravel().tolist()


def shape(values):
    return shapely.polygons(np.reshape(values, (-1, 2)))


def overlap(first, second):
    first, second = (shapely.make_valid(shape(values)) for values in (first, second))
    return first.intersection(second).area / first.union(second).area


def is_subsequence(part, whole):
    """Whether the vertices of a ring are some of another one's, in the same cyclic order."""
    part, whole = ([tuple(point) for point in np.reshape(values, (-1, 2))] for values in (part, whole))
    start = whole.index(part[0])
    rest = iter(whole[start:] + whole[:start])
    return all(point in rest for point in part)


def test_few_vertices_are_left_alone():
    polygon = circle(20)
    assert simplify_polygon(polygon, 20) == tuple(polygon)


@given(st.integers(21, 200), st.integers(4, 20), st.floats(0, 0.2), st.integers(0, 100))
def test_cap_box_and_vertices(num, cap, noise, seed):
    polygon = circle(num, noise=noise, seed=seed)
    simplified = simplify_polygon(polygon, cap)
    if simplified is None:
        assert cap < 8  # a rough outline cannot always be told by so few
        return
    assert 6 <= len(simplified) <= 2 * cap
    assert shape(simplified).bounds == shape(polygon).bounds
    assert shape(simplified).is_valid and is_subsequence(simplified, polygon)


def test_the_shape_is_kept():
    assert overlap(circle(200), simplify_polygon(circle(200), 20)) > 0.97
    assert overlap(circle(200), simplify_polygon(circle(200), 4)) == pytest.approx(2 / np.pi, abs=0.01)  # the square


def test_collinear_vertices_go_first():
    square = [(x, 0) for x in range(10)] + [(10, y) for y in range(10)]
    square += [(x, 10) for x in range(10, 0, -1)] + [(0, y) for y in range(10, 0, -1)]
    simplified = simplify_polygon(np.ravel(square), 20)
    assert overlap(np.ravel(square), simplified) == 1


def test_what_cannot_be_simplified():
    flat = [value for x in range(30) for value in (x, 5)]
    assert simplify_polygon(flat, 20) is None
    angles = np.linspace(0, 30, 200)
    wire = [np.stack([np.cos(angles), np.sin(angles)], axis=1) * (radii + angles)[:, None] for radii in (3, 2)]
    spiral = np.concatenate([wire[0], wire[1][::-1]]).ravel()
    assert shape(spiral).is_valid and simplify_polygon(spiral, 4) is None


def test_equal_vertices():
    assert simplify_polygon([5.0, 5.0] * 30, 20) is None
    doubled = [value for x, y in np.reshape(circle(30), (-1, 2)) for value in (x, y, x, y)]
    assert overlap(circle(30), simplify_polygon(doubled, 20)) > 0.95


def test_a_cap_below_a_box_is_refused():
    with pytest.raises(ValueError, match="max_points = 3: must be at least 4"):
        simplify_polygon(circle(30), 3)


@pytest.mark.shared_data
def test_real_polygons(shared_data):
    annotations = json.loads((shared_data / "lvis_val_100" / "lvis_val_100.json").read_text())["annotations"]
    polygons = [part for each in annotations for part in each["segmentation"] if len(part) > 40]
    simplified = [simplify_polygon(polygon, 20) for polygon in polygons]
    assert len(polygons) == 590 and None not in simplified
    assert max(map(len, simplified)) == 40
    for before, after in zip(polygons, simplified, strict=True):
        assert shape(before).bounds == shape(after).bounds
    assert np.mean([overlap(*pair) for pair in zip(polygons, simplified, strict=True)]) > 0.96

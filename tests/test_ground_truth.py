# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The objects of a record as they are to be written: their boxes, and the three orders."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.sequences import ground_truth

GRID = CoordinateGrid()
ORDERED = [  # in canonical order: y1, x1, y2, x2, description
    ("low", (500, 100, 600, 200)),
    ("high", (10, 101, 20, 200)),
    ("right", (11, 101, 20, 200)),
    ("tall", (11, 101, 20, 300)),
    ("wide", (11, 101, 30, 300)),
    ("wider", (11, 101, 30, 300)),
]


def ordered(objects, order, seed=0) -> list[tuple]:
    items = [DetectionObject(desc=desc, bins=bins) for desc, bins in objects]
    record = DetectionRecord(images=("a.png",), width=640, height=480, objects=items)
    return [(item.desc, item.bins) for item in ground_truth(record, GRID, order, seed)]


@given(objects=st.permutations(ORDERED), seed=st.integers())
def test_the_orders_of_the_ground_truth(objects, seed):
    assert ordered(objects, "sorted") == ORDERED
    assert ordered(objects, "as_is") == list(objects)
    shuffled = ordered(objects, "random", seed)
    assert sorted(shuffled) == sorted(ORDERED)
    assert shuffled == ordered(ORDERED, "random", seed)  # whatever the order of the annotations


def test_random_orders_are_fair_and_leave_the_global_generators_alone():
    state = random.getstate()
    first = Counter(ordered(ORDERED, "random", f"seed-{number}")[0][0] for number in range(600))
    assert random.getstate() == state
    assert set(first) == {desc for desc, _ in ORDERED} and 60 < min(first.values()) <= max(first.values()) < 140


def test_ground_truth_keeps_the_exact_box():
    record = DetectionRecord(
        images=("a.png",),
        width=640,
        height=480,
        objects=[
            DetectionObject(desc="low", bbox_2d=(10.3, 300, 200, 400)),
            DetectionObject(desc="high", poly=(100, 50, 150, 20, 120, 90)),
        ],
    )
    high, low = ground_truth(record, GRID)
    assert (high.desc, low.desc) == ("high", "low")
    assert high.box == pytest.approx((100 / 640, 20 / 480, 150 / 640, 90 / 480))
    assert low.box == pytest.approx((10.3 / 640, 300 / 480, 200 / 640, 400 / 480))  # not quantised
    assert low.bins == tuple(round(value * 999) for value in low.box)


def test_the_order_of_the_annotation_changes_nothing_in_pixels():
    # Boxes that fall into the same bins are still told apart, by their exact geometry.
    items = [DetectionObject(desc="cat", bbox_2d=(10, 10, right, 50)) for right in (60.0, 60.01, 60.02)]
    one, other = (
        ground_truth(DetectionRecord(images=("a.png",), width=640, height=480, objects=order), GRID)
        for order in (items, items[::-1])
    )
    assert one == other and len({item.bins for item in one}) == 1 and len({item.box for item in one}) == 3


def test_polygons_are_written_as_boxes_or_as_they_are():
    items = [
        DetectionObject(desc="kite", poly=(100, 50, 150, 20, 120, 90)),
        DetectionObject(desc="thread", poly=(300, 100, 300.05, 200, 300.1, 300)),  # one column of bins
        DetectionObject(desc="cat", bbox_2d=(10, 300, 200, 400)),
    ]
    record = DetectionRecord(images=("a.png",), width=640, height=480, objects=items)
    boxes, native = (ground_truth(record, GRID, geometry=geometry) for geometry in ("box", "native"))
    assert boxes == ground_truth(record, GRID)
    assert [item.is_polygon for item in boxes] == [False] * 3
    assert [item.is_polygon for item in native] == [True, False, False]
    assert [(item.desc, item.box) for item in native] == [(item.desc, item.box) for item in boxes]  # boxes are exact
    assert native[1:] == boxes[1:]  # the thread has no more than its box, never collapsed
    pixels = (100, 50, 150, 20, 120, 90)
    assert native[0].bins == tuple(
        round(value / side * 999) for value, side in zip(pixels, (640, 480) * 3, strict=True)
    )


def test_polygons_in_bins_stay_as_they_are():
    bins = (5, 6, 900, 40, 30, 999, 7, 7)
    items = [DetectionObject(desc="kite", bins=bins), DetectionObject(desc="cat", bins=(1, 2, 3, 4))]
    record = DetectionRecord(images=("a.png",), width=640, height=480, objects=items)
    assert [item.bins for item in ground_truth(record, GRID, geometry="native")] == [(1, 2, 3, 4), bins]
    assert [item.bins for item in ground_truth(record, GRID)] == [(1, 2, 3, 4), (5, 6, 900, 999)]

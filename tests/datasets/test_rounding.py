# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.rounding."""

import pytest

from coordexp_trl.datasets.rounding import interleave, round_axis, round_side, spread

# low, high, limit, result
SIDES = [
    (3.2, 9.7, 32, (3, 10)),
    (3.2, 3.4, 32, (3, 4)),  # collapsed: widened away from the nearer border
    (20.2, 20.4, 32, (19, 20)),
    (0.0, 0.1, 32, (0, 1)),
    (31.8, 32.0, 32, (31, 32)),
    (-0.001, 32.001, 32, (0, 32)),  # the tolerance of the reader
    (32.0, 32.001, 32, (31, 32)),
    (0.2, 0.4, 1, (0, 1)),
    (0.6, 0.9, 1, (0, 1)),
]


@pytest.mark.parametrize(("low", "high", "limit", "expected"), SIDES)
def test_round_side(low, high, limit, expected):
    assert round_side(low, high, limit) == expected


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ([1.2, 5.6, 3.4], 9, [1, 6, 3]),
        ([1.2, 1.4, 1.3], 9, [1, 2, 1]),  # the outermost vertex moves
        ([8.2, 8.4, 8.3], 9, [7, 8, 8]),
        ([9, 9, 9], 9, [8, 9, 9]),
        ([0, 0, 0], 9, [1, 0, 0]),
    ],
)
def test_round_axis(values, limit, expected):
    assert round_axis(values, limit) == expected


def test_spread_leaves_what_is_not_flat():
    assert spread([4, 4, 5], [4.4, 4.4, 4.5], 9) == [4, 4, 5]


def test_interleave():
    assert interleave([1, 3], [2, 4]) == (1, 2, 3, 4)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.uncertainty."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.uncertainty import coordinate_moments, coordinate_ranks, edge_coordinates

FIVE = CoordinateGrid(5)  # values 0, .25, .5, .75, 1

# Probabilities of the five bins, mean and standard deviation, by hand.
CASES = [
    ([0, 0, 0, 1, 0], 0.75, 0.0),
    ([0.5, 0, 0, 0, 0.5], 0.5, 0.5),
    ([0.2] * 5, 0.5, math.sqrt((0.25 + 0.0625) * 2 / 5)),
    ([0, 0.5, 0.5, 0, 0], 0.375, 0.125),
]


@pytest.mark.parametrize(("probabilities", "mean", "std"), CASES)
def test_by_hand(probabilities, mean, std):
    for shift in (0.0, 50.0):  # logits, not log-probabilities: a constant changes nothing
        logits = torch.tensor([probabilities]).log() + shift
        found = coordinate_moments(logits, FIVE)
        assert [part.item() for part in found] == pytest.approx([mean, std], abs=1e-6)


def test_narrow_distributions_near_the_border_keep_their_precision():
    logits = torch.full((1, 1000), -math.inf)
    logits[0, 998:] = 0.0
    mean, std = coordinate_moments(logits, CoordinateGrid())
    assert mean.item() == pytest.approx(998.5 / 999)
    assert std.item() == pytest.approx(0.5 / 999, rel=1e-4)


@given(st.lists(st.floats(-20, 20), min_size=5, max_size=5))
def test_moments_of_any_logits(logits):
    p = [math.exp(value - max(logits)) for value in logits]
    p = [value / sum(p) for value in p]
    values = [0, 0.25, 0.5, 0.75, 1]
    mean = sum(a * b for a, b in zip(p, values, strict=True))
    std = math.sqrt(sum(a * (b - mean) ** 2 for a, b in zip(p, values, strict=True)))
    found = coordinate_moments(torch.tensor([logits]), FIVE)
    assert [part.item() for part in found] == pytest.approx([mean, std], abs=1e-5)


def test_nothing_is_known_of_broken_logits():
    logits = torch.tensor([[math.nan] * 5, [-math.inf] * 5, [0.0] * 5])
    mean, std = coordinate_moments(logits, FIVE)
    assert mean.isnan().tolist() == std.isnan().tolist() == [True, True, False]
    assert [part.shape for part in coordinate_moments(torch.zeros(0, 5), FIVE)] == [(0,), (0,)]


def test_ranks_of_slots():
    ids = [7, 100, 101, 8, 100, 9, 104]
    ranks = coordinate_ranks(ids, torch.arange(100, 105))
    assert [ranks[slot] for slot in (1, 2, 4, 6)] == [0, 1, 2, 3]
    assert coordinate_ranks([], torch.arange(3)).tolist() == []


def test_edges():
    assert edge_coordinates([5, 1, 2, 9]) == [0, 1, 2, 3]  # a box as it was written, inverted or not
    # vertices (4, 7), (1, 3), (9, 3), (6, 8): left of the 2nd, upper of the 2nd (the first with 3), right of the 3rd
    assert edge_coordinates([4, 7, 1, 3, 9, 3, 6, 8]) == [2, 3, 4, 7]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.scores."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.evaluation.scores import object_scores
from coordexp_trl.protocols import PROTOCOLS, ParsedCompletion, ParsedObject, get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import build_tiny_tokenizer

# One object of nine tokens: structure, two of the description, structure, four slots, structure.
ONE = ParsedObject("black cat", (1, 2, 3, 4), slots=(4, 5, 6, 7), span=(0, 9), desc_span=(1, 3))


def completion(*objects, length=9):
    return ParsedCompletion(list(objects), {}, truncated=False, ended=True, length=length)


def logs(*probabilities):
    return [math.log(p) if p else -math.inf for p in probabilities]


# Token probabilities and the score, by hand.
CASES = [
    # certain of everything
    ([1.0] * 9, 1.0),
    # the structure does not count, be it as unlikely as it may
    ([0.0, 1, 1, 0.0, 1, 1, 1, 1, 0.0], 1.0),
    # geometric mean of the slots: (1/2 · 1/2 · 1/8 · 1/8)^(1/4) = 1/4
    ([1, 1, 1, 1, 0.5, 0.5, 0.125, 0.125, 1], 0.25),
    # arithmetic mean of the description: (0.9 + 0.5) / 2, where the geometric one would be 0.67
    ([1, 0.9, 0.5, 1, 1, 1, 1, 1, 1], 0.7),
    # their product
    ([1, 0.9, 0.5, 1, 0.5, 0.5, 0.125, 0.125, 1], 0.175),
    # an impossible slot makes the object impossible; an impossible token of a description only halves it
    ([1, 1, 1, 1, 1, 1, 0.0, 1, 1], 0.0),
    ([1, 1, 0.0, 1, 1, 1, 1, 1, 1], 0.5),
]


@pytest.mark.parametrize(("probabilities", "expected"), CASES)
def test_by_hand(probabilities, expected):
    assert object_scores(completion(ONE), logs(*probabilities)) == pytest.approx([expected], abs=1e-15)


def test_each_object_has_its_own_tokens():
    two = ParsedObject("dog", (1, 2, 3, 4), slots=(11, 12, 13, 14), span=(8, 16), desc_span=(9, 10))
    probabilities = [1, 0.5, 0.5, 1, 1, 1, 1, 1, 1, 0.25, 1, 1, 1, 1, 1, 1]
    assert object_scores(completion(ONE, two, length=16), logs(*probabilities)) == pytest.approx([0.5, 0.25])
    assert object_scores(completion(length=0), []) == []


def test_fewer_logprobs_than_tokens():
    with pytest.raises(ValueError, match=r"logprobs: 8 log-probabilities for 9 tokens"):
        object_scores(completion(ONE), [0.0] * 8)
    # More are fine: the engine may report the end token, too.
    assert object_scores(completion(ONE), [0.0] * 9 + [-5.0]) == [1.0]


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_only_slots_and_descriptions_count(name):
    """Over real completions: the score moves with exactly the tokens of the slots and of the description."""
    protocol = get_protocol(name, build_tiny_tokenizer())
    words = st.text(st.sampled_from('abc <>"黑é_'), min_size=1, max_size=8).filter(str.strip)

    @settings(deadline=None, max_examples=50)
    @given(descs=st.lists(words, min_size=1, max_size=4), data=st.data())
    def check(descs, data):
        parsed = protocol.parse(protocol.encode([DetectionObject(desc=desc, bins=(1, 2, 3, 4)) for desc in descs]))
        assert [item.desc for item in parsed.objects] == descs
        position = data.draw(st.integers(0, parsed.length - 1))
        logprobs = [0.0] * parsed.length
        logprobs[position] = math.log(0.5)
        for item, score in zip(parsed.objects, object_scores(parsed, logprobs), strict=True):
            tokens = range(*item.desc_span)
            if position in item.slots:
                assert score == pytest.approx(0.5**0.25)
            elif position in tokens:
                assert score == pytest.approx(1 - 0.5 / len(tokens))
            else:
                assert score == 1.0

    check()

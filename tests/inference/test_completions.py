# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.completions: scores, standard deviations and boxes of hand-made completions."""

import math

import pytest
import torch

from coordexp_trl.generation import Rollout
from coordexp_trl.inference.completions import CompletionReader
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import build_tiny_tokenizer

WIDTH, HEIGHT = 999, 1998  # a bin is a pixel wide and two pixels high
CAT, DOG = DetectionObject(desc="cat", bins=(100, 200, 300, 400)), DetectionObject(desc="dog", bins=(0, 0, 999, 999))
TRIANGLE = DetectionObject(desc="tent", bins=(50, 10, 90, 80, 20, 70))


@pytest.fixture(scope="module")
def protocol():
    return get_protocol("tags", build_tiny_tokenizer())


@pytest.fixture(scope="module")
def reader(protocol):
    return CompletionReader(protocol, protocol.tokenizer.eos_token_id, protocol.tokenizer)


def slot_logits(*supports):
    """Logits of slots: each is even between the bins given for it."""
    logits = torch.full((len(supports), 1000), -math.inf)
    for row, bins in zip(logits, supports, strict=True):
        row[list(bins)] = 1.5
    return logits


def rollout(protocol, objects, logits=None, logprobs=None, finish_reason="stop"):
    ids = protocol.encode(objects)
    return Rollout([1], ids, finish_reason, [0.0] * len(ids) if logprobs is None else logprobs, logits)


def read(reader, *rollouts, classes=None):
    return reader.read(rollouts, [None] * len(rollouts) if classes is None else classes, "a.jpg", WIDTH, HEIGHT)


def test_a_certain_box(reader, protocol):
    found = read(reader, rollout(protocol, [CAT], slot_logits([100], [200], [300], [400])))
    (item,) = found.objects
    assert item.desc == "cat" and item.bbox_2d == (100.0, 400.0, 300.0, 800.0)
    assert item.score == 1.0 and item.std == (0.0, 0.0, 0.0, 0.0) and item.poly is None
    assert found.text == protocol.serialize([CAT]) and (found.finish_reason, found.dropped) == ("stop", {})
    assert (found.image, found.width, found.height) == ("a.jpg", WIDTH, HEIGHT)


def test_std_is_in_pixels_of_its_axis(reader, protocol):
    # x1 in {98, 102}: 2 bins = 2 px; y1 in {195, 205}: 5 bins = 10 px; x2 certain; y2 in {400, 401}: .5 bins = 1 px
    logits = slot_logits([98, 102], [195, 205], [300], [400, 401])
    (item,) = read(reader, rollout(protocol, [CAT], logits)).objects
    assert item.bbox_2d == (100.0, 400.0, 300.0, 800.0)  # the bins that were written
    assert item.std == pytest.approx((2, 10, 0, 1), abs=1e-3)


def test_expectation_takes_the_mean(protocol):
    reader = CompletionReader(protocol, protocol.tokenizer.eos_token_id, protocol.tokenizer, expectation=True)
    logits = slot_logits([98, 103], [195, 206], [300], [400, 401])
    (item,) = read(reader, rollout(protocol, [CAT], logits)).objects
    assert item.bbox_2d == pytest.approx((100.5, 401, 300, 801), abs=1e-2)
    assert item.score == 1.0


def test_each_object_has_its_own_slots(reader, protocol):
    rows = [[k] for k in (100, 200, 300, 400)] + [[0, 2], [0], [999], [995, 999]]
    ids = protocol.encode([CAT, DOG])
    logprobs = [0.0] * len(ids)
    second = protocol.parse(ids).objects[1]
    logprobs[second.slots[0]] = math.log(1 / 16)  # geometric mean of the slots 1/2
    cat, dog = read(reader, rollout(protocol, [CAT, DOG], slot_logits(*rows), logprobs)).objects
    assert cat.std == (0, 0, 0, 0) and cat.score == 1.0
    assert dog.std == pytest.approx((1, 0, 0, 4), abs=1e-3) and dog.score == pytest.approx(0.5)


def test_slots_of_dropped_objects_are_passed_over(reader, protocol):
    # The first object has three coordinates: it is dropped, and its slots are not those of the second.
    token = protocol.tokenizer.convert_tokens_to_ids("<|coord_5|>")
    encoded = protocol.encode([DOG, CAT])
    slot = protocol.parse(encoded).objects[0].slots[-1]
    ids = encoded[:slot] + encoded[slot + 1 :]
    logits = slot_logits([0, 900], [0, 900], [0, 900], [100], [200], [300, 302], [400])
    found = read(
        reader, Rollout([1], [*ids, token], "length", [0.0] * (len(ids) + 1), torch.cat([logits, logits[:1]]))
    )
    (item,) = found.objects
    assert item.desc == "cat" and item.std == pytest.approx((0, 0, 1, 0), abs=1e-3)
    assert found.dropped["wrong_arity"] == 1 and found.finish_reason == "length"


def test_polygons_have_the_std_of_their_outermost_vertices(reader, protocol):
    # vertices (50, 10), (90, 80), (20, 70): left edge from the third, upper from the first, right and lower the second
    logits = slot_logits([50], [8, 12], [87, 93], [75, 85], [19, 21], [70])
    (item,) = read(reader, rollout(protocol, [TRIANGLE], logits)).objects
    assert item.poly == (50, 20, 90, 160, 20, 140) and item.bbox_2d == (20, 20, 90, 160)
    assert item.std == pytest.approx((1, 4, 3, 10), abs=1e-3)


def test_a_broken_model_is_no_error(reader, protocol):
    found = read(reader, rollout(protocol, [CAT], torch.full((4, 1000), math.nan), [math.nan] * 99))
    (item,) = found.objects
    assert item.score == 0.0 and item.std is None and item.bbox_2d == (100, 400, 300, 800)


def test_without_probabilities(reader, protocol):
    (item,) = read(reader, Rollout([1], protocol.encode([CAT]), "stop")).objects
    assert item.score is None and item.std is None


def test_completions_of_an_image_are_joined(reader, protocol):
    first = rollout(protocol, [CAT, DOG])
    second = rollout(protocol, [DOG, TRIANGLE], finish_reason="length")
    found = read(reader, first, second, classes=[("CAT",), ("dog", "bird")])
    assert [item.desc for item in found.objects] == ["cat", "dog"]
    assert found.dropped == {"not_asked": 2}  # the dog that the first, and the tent that the second was not asked for
    assert found.text == protocol.serialize([CAT, DOG]) + "\n" + protocol.serialize([DOG, TRIANGLE])
    assert found.finish_reason == "length"


def test_nothing_found(reader):
    found = read(reader, Rollout([1], [], "stop", [], torch.zeros(0, 1000)))
    assert found.objects == () and found.text == "" and found.dropped == {}

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.average_precision."""

import logging
import math
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from coordexp_trl.evaluation.average_precision import ImageDetections, average_precision

BOX = (0, 0, 10, 10)
NAMES = ("ap", "ap50", "ap75", "ar")


def shifted(dx, box=BOX):
    """The box moved to the right: of a box of width 10 the IoU is (10 - dx) / (10 + dx)."""
    return (box[0] + dx, box[1], box[2] + dx, box[3])


A, B, FAR = BOX, shifted(20), shifted(100)


def image(predictions, truths):
    """Predictions as (desc, box, score), GT as (desc, box)."""
    return ImageDetections(
        [box for _, box, _ in predictions],
        [desc for desc, _, _ in predictions],
        [score for _, _, score in predictions],
        [box for _, box in truths],
        [desc for desc, _ in truths],
    )


TWO = [("cat", A), ("cat", B)]

# Images as (predictions, GT), and expected ap, ap50, ap75, ar. Precision p is sampled at the recalls 0, .01 … 1, each
# time the best one at this recall or a larger one: recall 1/2 covers 51 of the 101 samples.
CASES = [
    # perfect; with one annotation of each kind it also shows that ids do not start at 0, which means "no match"
    ([([("cat", A, 0.9)], [("cat", A)])], (1, 1, 1, 1)),
    ([([("cat", A, 0.9), ("cat", B, 0.8)], TWO)], (1, 1, 1, 1)),
    # half of the objects: p = 1 at 51 samples and 0 at the other 50
    ([([("cat", A, 0.9)], TWO)], (51 / 101, 51 / 101, 51 / 101, 1 / 2)),
    # IoU 8/12 = .667: a match at .50, .55, .60 and .65 only
    ([([("cat", shifted(2), 0.9)], [("cat", A)])], (0.4, 1, 0, 0.4)),
    # good ranking, TP TP FP: full recall is reached at p = 1
    ([([("cat", A, 0.9), ("cat", B, 0.8), ("cat", FAR, 0.7)], TWO)], (1, 1, 1, 1)),
    # the same boxes in the opposite ranking, FP TP TP: p = 0, 1/2, 2/3; the best one, 2/3, comes last
    ([([("cat", A, 0.7), ("cat", B, 0.8), ("cat", FAR, 0.9)], TWO)], (2 / 3, 2 / 3, 2 / 3, 1)),
    # TP FP TP: p = 1 up to recall 1/2 (51 samples), then 2/3 (50 samples)
    (
        [([("cat", A, 0.9), ("cat", FAR, 0.8), ("cat", B, 0.7)], TWO)],
        ((51 + 50 * 2 / 3) / 101,) * 3 + (1,),
    ),
    # a duplicate is a false positive: here TP FP TP again
    (
        [([("cat", A, 0.9), ("cat", A, 0.8), ("cat", B, 0.7)], TWO)],
        ((51 + 50 * 2 / 3) / 101,) * 3 + (1,),
    ),
    # the ranking goes over all images: the false positive of an image without GT comes first, p = 1/2
    ([([("cat", A, 0.8)], [("cat", A)]), ([("cat", A, 0.9)], [])], (1 / 2, 1 / 2, 1 / 2, 1)),
    # boxes meet GT of their own image only
    ([([("cat", B, 0.8)], [("cat", A)]), ([("cat", A, 0.9)], [("cat", B)])], (0, 0, 0, 0)),
    # the mean over classes: cat 1, dog 0, however many objects there are
    ([([("cat", A, 0.9), ("cat", B, 0.8)], [*TWO, ("dog", FAR)])], (1 / 2, 1 / 2, 1 / 2, 1 / 2)),
    # the right box under the wrong one of two classes: false positive there, missed here
    ([([("dog", A, 0.9), ("dog", B, 0.8)], [("cat", A), ("dog", B)])], (1 / 4, 1 / 4, 1 / 4, 1 / 2)),
    # a description that is nowhere in the GT does not count
    ([([("cat", A, 0.8), ("unicorn", FAR, 0.9)], [("cat", A)])], (1, 1, 1, 1)),
    # descriptions are compared without case, underscores and surplus spaces
    ([([("Traffic_Light ", A, 0.8)], [("traffic  light", A)])], (1, 1, 1, 1)),
    # inverted corners are sorted, in predictions and in the GT
    ([([("cat", (10, 10, 0, 0), 0.8)], [("cat", (0, 10, 10, 0))])], (1, 1, 1, 1)),
    # a box without area matches nothing, also not itself
    ([([("cat", (5, 5, 5, 5), 0.8)], [("cat", (5, 5, 5, 5))])], (0, 0, 0, 0)),
    # boxes that are not finite are left out: they are no false positives
    (
        [([("cat", (math.nan, 0, 9, 9), 0.9), ("cat", (0, 0, math.inf, 9), 0.8), ("cat", A, 0.7)], [("cat", A)])],
        (1,) * 4,
    ),
    # an impossible object still ranks, last
    ([([("cat", A, 0.5), ("cat", FAR, 0.0)], [("cat", A)])], (1, 1, 1, 1)),
    # nothing predicted, no GT, no image
    ([([], TWO)], (0, 0, 0, 0)),
    ([([], TWO), ([], [])], (0, 0, 0, 0)),
    ([([("cat", A, 0.9)], [])], (0, 0, 0, 0)),
    ([([], [])], (0, 0, 0, 0)),
    ([], (0, 0, 0, 0)),
]


@pytest.mark.parametrize(("images", "expected"), CASES)
def test_by_hand(images, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = average_precision([image(*item) for item in images])
    assert tuple(found) == NAMES
    assert tuple(found.values()) == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in found.values())


def test_max_detections():
    """It counts the predictions of one class in one image."""
    boxes = [shifted(20 * i) for i in range(120)]
    many = image(
        [("cat", box, 1 - i / 1000) for i, box in enumerate(boxes)] + [("dog", FAR, 0.1)],
        [("cat", box) for box in boxes] + [("dog", FAR)],
    )
    found = average_precision([many])  # cat: 100 of 120, which covers the recalls 0 … .83; dog: all
    assert found["ap"] == pytest.approx((84 / 101 + 1) / 2)
    assert found["ar"] == pytest.approx((100 / 120 + 1) / 2)
    assert average_precision([many], max_detections=120) == dict.fromkeys(NAMES, 1.0)
    # Those with the largest scores count, wherever they stand in the list.
    backwards = replace(many, boxes=many.boxes[::-1], descs=many.descs[::-1], scores=many.scores[::-1])
    assert average_precision([backwards]) == found


def jittered(rng, box, amount):
    return tuple(value + rng.gauss(0, amount) for value in box)


def random_images(seed, count=12):
    """Crowded images of several classes: misses, extras, duplicates, wrong classes, close neighbours, all scored."""
    rng = random.Random(seed)
    classes = ["cat", "dog", "red circle", "person"][: 1 + seed % 4]
    images = []
    for _ in range(count):
        truths, predictions = [], []
        for _ in range(rng.randrange(8)):
            x, y = rng.uniform(0, 300), rng.uniform(0, 300)
            box = (x, y, x + rng.uniform(10, 90), y + rng.uniform(10, 90))
            truths.append((rng.choice(classes), box))
            if rng.random() < 0.3:
                truths.append((truths[-1][0], jittered(rng, box, 4)))
        for desc, box in truths:
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                desc = desc if rng.random() < 0.8 else rng.choice([*classes, "unicorn"])
                predictions.append((desc, jittered(rng, box, rng.uniform(0, 8)), rng.random()))
        predictions += [(rng.choice(classes), jittered(rng, BOX, 50), rng.random()) for _ in range(rng.randrange(3))]
        rng.shuffle(predictions)
        images.append(image(predictions, truths))
    return images


def reference(images, max_detections=100):
    """AP and AR after their definition, slowly and without any tool."""

    def iou(p, q):
        (px1, px2), (py1, py2) = sorted(p[::2]), sorted(p[1::2])
        (qx1, qx2), (qy1, qy2) = sorted(q[::2]), sorted(q[1::2])
        width, height = min(px2, qx2) - max(px1, qx1), min(py2, qy2) - max(py1, qy1)
        common = max(width, 0) * max(height, 0)
        return common / ((px2 - px1) * (py2 - py1) + (qx2 - qx1) * (qy2 - qy1) - common) if common else 0.0

    def curve(desc, threshold):
        """Mean precision over 101 recalls, and the largest recall."""
        ranked, total = [], 0
        for one in images:
            free = [box for box, other in zip(one.gt_boxes, one.gt_descs, strict=True) if other == desc]
            total += len(free)
            found = zip(one.scores, one.boxes, one.descs, strict=True)
            found = sorted([(score, box) for score, box, other in found if other == desc], reverse=True)
            for score, box in found[:max_detections]:
                best = max(free, key=lambda gt: iou(box, gt), default=None)  # noqa: B023
                hit = best is not None and iou(box, best) >= threshold
                if hit:
                    free.remove(best)
                ranked.append((score, hit))
        ranked.sort(reverse=True)
        hits = [sum(hit for _, hit in ranked[: n + 1]) for n in range(len(ranked))]
        points = [(hit / total, hit / (n + 1)) for n, hit in enumerate(hits)]
        samples = [max([p for r, p in points if r >= level], default=0.0) for level in np.linspace(0, 1, 101)]
        return sum(samples) / 101, max([r for r, _ in points], default=0.0)

    classes = sorted({desc for one in images for desc in one.gt_descs})
    table = np.array([[curve(desc, 0.5 + 0.05 * t) for t in range(10)] for desc in classes]).mean(axis=0)
    return dict(zip(NAMES, (table[:, 0].mean(), table[0, 0], table[5, 0], table[:, 1].mean()), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_definition(seed):
    images = random_images(seed)
    expected = reference(images)
    assert 0.1 < expected["ap"] < expected["ap50"] < 1  # the data is neither trivial nor hopeless
    assert average_precision(images) == pytest.approx(expected, abs=1e-6)
    assert average_precision(images, max_detections=2) == pytest.approx(reference(images, 2), abs=1e-6)


# Powers of two scale without rounding. Areas reach from far below 1 to far above the 1e10 where COCO's sizes end.
@pytest.mark.parametrize("scale", [2.0**-10, 2.0**-2, 2.0**20])
def test_the_unit_does_not_matter(scale):
    images = random_images(3)
    scaled = [
        replace(one, boxes=scale * np.reshape(one.boxes, (-1, 4)), gt_boxes=scale * np.reshape(one.gt_boxes, (-1, 4)))
        for one in images
    ]
    assert average_precision(scaled) == average_precision(images)


@pytest.mark.parametrize("tied", [False, True])
def test_the_order_of_predictions_does_not_matter(tied):
    rng = random.Random(0)
    images = random_images(7)
    if tied:
        images = [replace(one, scores=[0.5] * len(one.scores)) for one in images]
    expected = average_precision(images)
    for _ in range(5):
        shuffled = []
        for one in images:
            order = rng.sample(range(len(one.scores)), len(one.scores))
            boxes, descs, scores = ([part[i] for i in order] for part in (one.boxes, one.descs, one.scores))
            shuffled.append(replace(one, boxes=boxes, descs=descs, scores=scores))
        assert average_precision(shuffled) == expected


@pytest.mark.parametrize("convert", [torch.tensor, np.array, tuple])
def test_kinds_of_input(convert):
    images = [one for one in random_images(2) if one.boxes and one.gt_boxes]
    converted = [
        replace(one, boxes=convert(one.boxes), scores=convert(one.scores), gt_boxes=convert(one.gt_boxes))
        for one in images
    ]
    assert average_precision(converted) == pytest.approx(average_precision(images), abs=1e-6)  # torch: float32


def test_says_nothing(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    average_precision(random_images(1))
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


GOOD = image([("cat", A, 0.9)], [("cat", A)])

# What is wrong, and what the message names.
ERRORS = [
    (replace(GOOD, boxes=[[1, 2, 3]]), r"images\[1\].boxes: must have shape \(N, 4\), got \(1, 3\)"),
    (replace(GOOD, boxes=[A, B]), r"images\[1\].boxes, descs: got 2 boxes but 1 descriptions"),
    (replace(GOOD, gt_descs=[]), r"images\[1\].gt_boxes, gt_descs: got 1 boxes but 0 descriptions"),
    (replace(GOOD, scores=[0.9, 0.8]), r"images\[1\].scores: got 2 scores for 1 boxes"),
    (replace(GOOD, scores=[math.nan]), r"images\[1\].scores: NaN at \[0\]"),
    (replace(GOOD, gt_boxes=[(0, 0, math.nan, 1)]), r"images\[1\].gt_boxes: .* not finite"),
]


@pytest.mark.parametrize(("bad", "message"), ERRORS)
def test_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        average_precision([GOOD, bad])


def test_max_detections_must_be_positive():
    with pytest.raises(ValueError, match="max_detections = 0"):
        average_precision([GOOD], max_detections=0)

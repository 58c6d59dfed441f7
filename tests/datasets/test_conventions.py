# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.conventions."""

import json

import numpy as np
import pytest

from coordexp_trl.datasets.conventions import MIN_BOXES, suspect_convention


def make_boxes(num=60, seed=0, width=640, height=480):
    """Boxes of all sizes over the whole of images of one size."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (num, 2, 2)), axis=1)
    return (corners * [width, height]).reshape(num, 4), np.tile([width, height], (num, 1))


def as_xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


WRONG = {
    "normalised": lambda boxes, sizes: boxes / np.tile(sizes, 2),
    "x, y, width, height": lambda boxes, sizes: as_xywh(boxes),
    "1000": lambda boxes, sizes: boxes / np.tile(sizes, 2) * 1000,
}


@pytest.mark.parametrize("seed", range(5))
def test_pixels_are_not_suspected(seed):
    assert suspect_convention(*make_boxes(seed=seed)) is None


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.parametrize("seed", range(5))
def test_other_conventions_are_named(words, seed):
    boxes, sizes = make_boxes(seed=seed, width=480, height=360)
    suspicion = suspect_convention(WRONG[words](boxes, sizes), sizes)
    assert suspicion is not None and words in suspicion


def test_exchanged_width_and_height():
    boxes, sizes = make_boxes(width=1900, height=500)
    assert "swapped" in suspect_convention(boxes, sizes[:, ::-1])


def test_few_boxes_can_be_anything():
    boxes, sizes = make_boxes(num=MIN_BOXES - 1)
    assert suspect_convention(as_xywh(boxes), sizes) is None


def test_no_boxes_and_nan():
    assert suspect_convention(np.empty((0, 4)), np.empty((0, 2))) is None
    assert suspect_convention(np.full((20, 4), np.nan), np.full((20, 2), 100)) is None


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "file",
    [
        "coco_permissive/instances_train2017.json",
        "coco_permissive/instances_val2017.json",
        "lvis_val_100/lvis_val_100.json",
    ],
)
def test_real_boxes(shared_data, file):
    content = json.loads((shared_data / file).read_text())
    size_of = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    annotations = [item for item in content["annotations"] if not item.get("iscrowd")]
    xywh = np.array([item["bbox"] for item in annotations])
    sizes = np.array([size_of[item["image_id"]] for item in annotations])
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    assert suspect_convention(boxes, sizes) is None
    for words, change in WRONG.items():
        assert words in (suspect_convention(change(boxes, sizes), sizes) or ""), words


def test_thousand_scaled_boxes_of_large_images_are_named():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.8, (200, 2))
    unit = np.concatenate([low, np.minimum(low + rng.uniform(0.05, 0.5, (200, 2)), 1)], axis=1)
    sizes = np.full((200, 2), [1920, 1080])
    assert "1000-scaled" in suspect_convention(unit * 1000, sizes)
    assert suspect_convention(unit * [1920, 1080, 1920, 1080], sizes) is None
    # A camera that sees nothing in its right half: x ends where 1000 would, but y goes on
    assert suspect_convention(unit * [1000, 1080, 1000, 1080], sizes) is None
    # And objects that seldom reach any border
    assert suspect_convention(unit[unit.max(1) < 0.98] * 1000, np.full(((unit.max(1) < 0.98).sum(), 2), 1920)) is None

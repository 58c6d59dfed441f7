# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.pictures."""

import numpy as np
import pytest
from PIL import Image

from coordexp_trl.evaluation.pictures import COLORS, draw_overlay, save_overlays
from coordexp_trl.records import DetectionObject

GREY = Image.new("RGB", (200, 100), (128, 128, 128))
CAT = DetectionObject("cat", bbox_2d=(20, 20, 90, 80))
CAT_BINS = DetectionObject("cat", bins=(100, 200, 450, 800))  # nearly the same place
DOG = DetectionObject("dog", bbox_2d=(120, 30, 180, 90))


def number_of_pixels(picture, kind):
    """Pixels of the exact colour of `kind`, in the left and in the right panel."""
    mask = (np.asarray(picture) == COLORS[kind]).all(-1)[26:]
    middle = mask.shape[1] // 2
    return mask[:, :middle].sum(), mask[:, middle:].sum()


# GT, predictions, and which colours must appear in the right panel.
CASES = [
    ([], [], set()),
    ([CAT], [], {"FN"}),
    ([], [CAT], {"FP"}),
    ([CAT], [CAT_BINS], {"TP"}),
    ([CAT], [DOG], {"FP", "FN"}),
    ([CAT, DOG], [CAT, CAT], {"TP", "duplicate", "FN"}),
    ([], [CAT, CAT_BINS], {"FP", "duplicate"}),  # one of a pile is no duplicate
    ([CAT], [CAT, CAT_BINS, DOG], {"TP", "FP", "duplicate"}),
    # inverted and collapsed boxes of a model are drawn like others
    ([CAT], [DetectionObject("cat", bins=(450, 800, 100, 200))], {"TP"}),
    ([], [DetectionObject("cat", bins=(999, 999, 999, 999))], {"FP"}),
    # polygons are drawn by their enclosing box
    ([DetectionObject("cat", poly=(20, 20, 90, 20, 90, 80))], [CAT], {"TP"}),
]


@pytest.mark.parametrize(("truths", "predictions", "expected"), CASES)
def test_outcomes_have_their_colours(truths, predictions, expected):
    picture = draw_overlay(GREY, truths, predictions)
    right = {kind for kind in ("TP", "FP", "FN", "duplicate") if number_of_pixels(picture, kind)[1] > 20}
    left = {kind for kind in COLORS if number_of_pixels(picture, kind)[0] > 20}
    assert right == expected
    assert left == ({"GT"} if truths else set())


def test_boxes_lie_where_they_should():
    picture = np.asarray(draw_overlay(GREY, [], [DetectionObject("x", bbox_2d=(0, 0, 200, 100))]))
    panel = (picture[26:, -384:] == COLORS["FP"]).all(-1)  # 200 x 100 is enlarged to 384 x 192
    assert panel.shape == (192, 384)
    assert panel[0, :].all() and panel[-1, :].all() and panel[:, 0].all() and panel[:, -1].all()
    assert not panel[30:-30, 30:-30].any()


def test_threshold_and_classes_follow_the_arguments():
    loose = DetectionObject("cat", bbox_2d=(20, 20, 90, 60))  # IoU 2/3
    assert number_of_pixels(draw_overlay(GREY, [CAT], [loose], iou_threshold=0.75), "FP")[1] > 20
    other = DetectionObject("tiger", bbox_2d=CAT.bbox_2d)
    assert number_of_pixels(draw_overlay(GREY, [CAT], [other], class_agnostic=True), "TP")[1] > 20


@pytest.mark.parametrize(
    ("size", "panel"),
    [((96, 64), (384, 256)), ((640, 480), (640, 480)), ((4096, 1024), (1024, 256)), ((1, 1), (384, 384))],
)
def test_small_images_grow_and_large_ones_shrink(size, panel):
    picture = draw_overlay(Image.new("L", size), [], [], title="name.png")
    assert picture.mode == "RGB"
    assert picture.size == (2 * panel[0] + 8, panel[1] + 26 + 26)


def test_scores_change_the_picture_and_must_fit():
    plain, scored = draw_overlay(GREY, [], [CAT]), draw_overlay(GREY, [], [CAT], scores=[0.25])
    assert plain.tobytes() != scored.tobytes()
    assert scored.tobytes() != draw_overlay(GREY, [], [CAT], scores=[0.75]).tobytes()
    with pytest.raises(ValueError, match="scores: got 2 for 1 predictions"):
        draw_overlay(GREY, [], [CAT], scores=[0.1, 0.2])


def test_image_is_not_changed_and_drawing_is_deterministic():
    before = GREY.tobytes()
    first = draw_overlay(GREY, [CAT, DOG], [CAT] * 30, title="a")
    assert GREY.tobytes() == before
    assert first.tobytes() == draw_overlay(GREY, [CAT, DOG], [CAT] * 30, title="a").tobytes()


def test_descriptions_of_any_kind_are_drawn():
    descs = ["x" * 500, "чёрная кошка", "黒い猫", "two\nlines", "🐈", "‮rtl"]
    for desc in descs:
        draw_overlay(GREY, [DetectionObject(desc, bbox_2d=CAT.bbox_2d)], [CAT], title=desc)


def test_contact_sheet(tmp_path):
    pictures = [draw_overlay(GREY, [CAT], [CAT]), draw_overlay(GREY, [CAT], [], title="b"), GREY]
    path = save_overlays(pictures, tmp_path / "new" / "sheet.png", columns=2)
    with Image.open(path) as sheet:
        cell = max(p.width for p in pictures) + 8, max(p.height for p in pictures) + 8
        assert sheet.size == (2 * cell[0] + 8, 2 * cell[1] + 8)
        assert sheet.getpixel((8 + 5, 8 + cell[1] + 5)) == (128, 128, 128)  # the third picture, in the second row
    save_overlays(pictures[:1], tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.size == (pictures[0].width + 16, pictures[0].height + 16)
    with pytest.raises(ValueError, match="overlays: is empty"):
        save_overlays([], path)
    with pytest.raises(ValueError, match="columns = 0"):
        save_overlays(pictures, path, columns=0)

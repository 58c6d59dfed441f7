# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.run_gallery."""

import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from run_folders import images, write_evaluation

from coordexp_trl.evaluation import run_gallery
from coordexp_trl.evaluation.image_results import ImageResult, ObjectResult
from coordexp_trl.evaluation.panels import COLORS
from coordexp_trl.evaluation.run_files import read_run
from coordexp_trl.evaluation.run_gallery import choose_images, draw_images, image_file


@pytest.fixture
def folder(tmp_path):
    return write_evaluation(tmp_path / "run")


def pixels(picture):
    """An encoded picture as an array, without the line of words."""
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"), dtype=int)[26:]


def kinds(picture):
    """Kinds whose colour fills more than a few pixels; the pictures are compressed with loss."""
    values = pixels(picture)
    return {kind for kind, color in COLORS.items() if (np.abs(values - color).max(-1) < 40).sum() > 60}


def test_order(folder):
    found = read_run(folder).images
    names = [item.image for item in found]
    assert names == ["a.png", "sub/b.png", "c.png"] and [item.errors for item in found] == [0, 2, 4]
    for shuffled in (found, found[::-1]):
        assert [item.image for item in choose_images(shuffled, 9)] == ["c.png", "sub/b.png", "a.png"]
        assert [item.image for item in choose_images(shuffled, 2, "best")] == ["a.png", "sub/b.png"]
        assert [item.image for item in choose_images(shuffled, 9, "name")] == ["a.png", "c.png", "sub/b.png"]
        orders = [[item.image for item in choose_images(shuffled, 9, "random", seed)] for seed in range(20)]
        assert orders[0] == [item.image for item in choose_images(found, 9, "random", 0)]
        assert len(set(map(tuple, orders))) > 1


def test_ties_go_by_name(tmp_path):
    lines = [images()[2] | {"image": f"{k:02}.png"} for k in range(12)]
    random.Random(0).shuffle(lines)
    found = read_run(write_evaluation(tmp_path, lines)).images
    for sort in ("worst", "best"):
        assert [item.image for item in choose_images(found, 3, sort)] == ["00.png", "01.png", "02.png"]


def test_wrong_options(folder):
    with pytest.raises(ValueError, match="max_images = -1"):
        choose_images([], -1)
    with pytest.raises(ValueError, match="sort = 'bad': must be one of worst, best, name, random"):
        choose_images([], 1, "bad")
    with pytest.raises(ValueError, match="num_workers = 0"):
        draw_images([], num_workers=0)


def test_statuses_have_their_colours_and_captions(folder):
    figures, unreadable = draw_images(read_run(folder).images, folder / "images", show_progress=False)
    assert unreadable == 0
    assert [kinds(figure.image) for figure in figures] == [{"GT"}] * 3
    assert [kinds(figure.beside) for figure in figures] == [{"TP"}, {"TP", "duplicate", "FN"}, {"FP", "FN"}]
    assert [figure.caption for figure in figures] == [
        "a.png: 1 TP, 0 FP, 0 missed, F1 1.00",
        "sub/b.png: 1 TP, 1 FP (1 duplicate), 1 missed, F1 0.50, cut at the length limit",
        "c.png: 0 TP, 2 FP, 2 missed, F1 0.00, 2 malformed",
    ]


def test_statuses_are_not_matched_anew(tmp_path):
    lines = images()[:1]
    lines[0]["predictions"][0]["status"] = "ignored"
    lines[0]["ground_truth"][0]["status"] = "ignored"
    folder = write_evaluation(tmp_path, lines)
    (figure,), _ = draw_images(read_run(folder).images, folder / "images", show_progress=False)
    assert (kinds(figure.image), kinds(figure.beside)) == ({"ignored"}, {"ignored"})


def test_missing_and_damaged_images_are_drawn_on_grey_and_counted(folder):
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "c.png").write_bytes(b"no image")
    figures, unreadable = draw_images(read_run(folder).images, folder / "images", show_progress=False)
    assert unreadable == 2
    assert "drawn on grey: no such file" in figures[0].caption and "drawn on grey: the image" in figures[2].caption
    assert "grey" not in figures[1].caption
    assert [(figure.image.width, figure.image.height) for figure in figures] == [(384, 192 + 26)] * 3
    corner = pixels(figures[0].image)[-20:, -100:]
    assert np.abs(corner - (110, 112, 118)).max() < 8
    assert kinds(figures[0].beside) == {"TP"}


def test_an_image_of_another_size_is_scaled_to_its_boxes(folder):
    image = Image.new("RGB", (400, 200), (200, 200, 40))
    image.save(folder / "images" / "a.png")
    (figure,), unreadable = draw_images(read_run(folder).images[:1], folder / "images", show_progress=False)
    assert unreadable == 0 and "the image file has 400 × 200 pixels, its boxes refer to 200 × 100" in figure.caption
    assert (figure.image.width, figure.image.height) == (384, 192 + 26)
    rows, columns = np.nonzero(np.abs(pixels(figure.image) - COLORS["GT"]).max(-1) < 60)
    assert abs(rows.max() - 80 * 1.92) < 4 and abs(columns.max() - 90 * 1.92) < 4


def test_where_images_are_looked_for(folder, tmp_path):
    item = read_run(folder).images[1]
    assert image_file(item, None).as_posix() == "sub/b.png"
    assert image_file(item, tmp_path) == tmp_path / "sub" / "b.png"
    lines = [images()[0] | {"image_path": "/there/a.png"}, images()[0] | {"image": "/data/b.png"}]
    with_path, absolute = read_run(write_evaluation(tmp_path / "two", lines[:1])).images * 2
    assert image_file(with_path, None).as_posix() == "/there/a.png"
    assert image_file(with_path, tmp_path) == tmp_path / "a.png"


def test_many_images_get_smaller_pictures_and_threads_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(run_gallery, "_MANY", 3)
    image = read_run(folder).images[0]
    Image.effect_noise((900, 600), 60).save(folder / "images" / "a.png")
    large = [replace(image, width=900, height=600)]
    few, _ = draw_images(large * 3, folder / "images", num_workers=1, show_progress=False)
    again, _ = draw_images(large * 3, folder / "images", num_workers=3, show_progress=False)
    many, _ = draw_images(large * 4, folder / "images", show_progress=False)
    assert few == again and few[0].image.width == 640
    assert many[0].image.width == 448 and len(many[0].image.data) < 0.7 * len(few[0].image.data)


@pytest.mark.shared_data
def test_real_photographs(shared_data):
    folder = shared_data / "coco_permissive"
    coco = json.loads((folder / "instances_val2017.json").read_text())
    names = {item["id"]: item["name"] for item in coco["categories"]}
    found = []
    for image in coco["images"][:12]:
        boxes = [item for item in coco["annotations"] if item["image_id"] == image["id"]]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (item["bbox"] for item in boxes)]
        labels = [names[item["category_id"]] for item in boxes]
        truths = tuple(ObjectResult(*pair, "missed") for pair in zip(labels, corners, strict=True))
        path, counts = folder / "images" / "val2017" / image["file_name"], (0, 0, len(truths), 0)
        size = (image["width"], image["height"])
        found.append(ImageResult(path.name, str(path), *size, *counts, 0.0, "stop", 0, truths, ()))
    figures, unreadable = draw_images(found, show_progress=False)
    assert (len(figures), unreadable) == (12, 0)
    assert all("pixels" not in figure.caption for figure in figures)  # the files have the size of the annotations
    sizes = [len(figure.image.data) + len(figure.beside.data) for figure in figures]
    assert sum(sizes) / len(sizes) < 160_000

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.shapes."""

import hashlib
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.shapes import COLORS, SHAPES, create_shapes, draw_shapes
from coordexp_trl.images import load_image
from coordexp_trl.records import read_records


def color_mask(image, desc):
    """Pixels that are nearer to the colour of `desc` than to any other colour and to the dark background."""
    pixels = np.asarray(image).astype(int)
    names = list(COLORS)
    distances = np.stack([np.abs(pixels - np.array(COLORS[name])).sum(-1) for name in names])
    return (distances.argmin(0) == names.index(desc.split()[0])) & (distances.min(0) <= 3 * (15 + 12))


def extent(mask):
    """Tight box around a mask, with continuous edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_pixels_and_boxes_of_a_seed_are_fixed():
    # Frozen: a change here changes every dataset, checkpoint and figure made from shapes.
    image, objects = draw_shapes(seed=7, index=8)
    digest = "dbdb0fd06fdd8178b437ac645103be8ddcc35520cc23f4b2ac87d621981d51e9"
    assert hashlib.sha256(image.tobytes()).hexdigest() == digest
    assert [(item.desc, item.bbox_2d) for item in objects] == [
        ("white triangle", (18, 0, 42, 19)),
        ("red triangle", (63, 20, 93, 64)),
        ("red triangle", (30, 98, 67, 128)),
    ]


def test_folder_is_readable_and_reproducible(tmp_path):
    path = create_shapes(tmp_path / "a", num_images=5, seed=1)
    assert path == tmp_path / "a" / "shapes.jsonl"
    records = read_records(path)
    assert [record.images for record in records] == [(f"images/{i:06d}.png",) for i in range(5)]
    for index, record in enumerate(records):
        image, objects = draw_shapes(1, index)
        assert np.array_equal(load_image(record), image)  # load_image also checks width and height
        assert record.objects == tuple(objects)
        assert record.sorted_objects(CoordinateGrid()) == record.objects
    other = create_shapes(tmp_path / "b", num_images=5, seed=1)
    files = [file.relative_to(path.parent) for file in sorted(path.parent.rglob("*")) if file.is_file()]
    assert len(files) == 6
    assert all((path.parent / file).read_bytes() == (other.parent / file).read_bytes() for file in files)


def test_picture_depends_on_seed_and_index_only(tmp_path):
    short = create_shapes(tmp_path / "short", num_images=2, seed=4)
    long = create_shapes(tmp_path / "long", num_images=4, seed=4)
    assert long.read_bytes().startswith(short.read_bytes())
    pictures = [draw_shapes(seed, index)[0].tobytes() for seed in (0, 1) for index in range(10)]
    assert len(set(pictures)) == 20


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    draw_shapes(0, 0)
    assert np.array_equal(np.random.random(3), expected)


def test_box_of_a_single_object_is_its_pixel_extent():
    seen = set()
    for index in range(120):
        image, (item,) = draw_shapes(3, index, max_objects=1)
        assert extent(color_mask(image, item.desc)) == item.bbox_2d, index
        seen.add(item.desc)
    assert seen == {f"{color} {shape}" for color in COLORS for shape in SHAPES}


@pytest.mark.parametrize("max_overlap", [0.0, 0.1, 0.4])
def test_boxes_of_many_objects_are_tight_and_overlap_within_the_limit(max_overlap):
    overlaps = []
    for index in range(20):
        image, objects = draw_shapes(5, index, min_objects=6, max_objects=10, max_overlap=max_overlap)
        assert 6 <= len(objects) <= 10
        for item in objects:
            x1, y1, x2, y2 = map(int, item.bbox_2d)
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
            # Visible pixels touch all four sides, although objects drawn later may hide a part.
            assert extent(color_mask(image, item.desc)[y1:y2, x1:x2]) == (0, 0, x2 - x1, y2 - y1)
        for a, b in itertools.combinations([item.bbox_2d for item in objects], 2):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            overlaps.append(max(width, 0) * max(height, 0) / smaller)
    assert max(overlaps) <= max_overlap
    assert max(overlaps) > max_overlap / 2 or max_overlap == 0  # the option does something


def test_shapes_are_what_they_are_called():
    for index in range(60):
        image, (item,) = draw_shapes(11, index, max_objects=1)
        x1, y1, x2, y2 = map(int, item.bbox_2d)
        filled = color_mask(image, item.desc)[y1:y2, x1:x2].mean()
        expected = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5}[item.desc.split()[1]]
        assert filled == pytest.approx(expected, abs=0.06), item
        if not item.desc.endswith("triangle"):
            assert x2 - x1 == y2 - y1


def test_background_varies():
    corners = [np.asarray(draw_shapes(0, index, 64, 0, 0)[0])[:8, :8].mean((0, 1)) for index in range(8)]
    assert np.std(corners, axis=0).min() > 5
    image, objects = draw_shapes(0, 0, min_objects=0, max_objects=0)
    assert objects == [] and np.asarray(image)[:8, :8].std() > 2  # noise


def test_number_of_objects_covers_the_whole_range():
    counts = {len(draw_shapes(2, index, min_objects=0, max_objects=4)[1]) for index in range(60)}
    assert counts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "num_images = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed = 4294967296"),
        ({"image_size": 31}, "image_size = 31"),
        ({"min_objects": 5, "max_objects": 4}, "min_objects = 5, max_objects = 4"),
        ({"min_objects": -1}, "min_objects = -1"),
        ({"max_overlap": 1.5}, "max_overlap = 1.5"),
        ({"max_overlap": float("nan")}, "max_overlap = nan"),
        # impossible scene
        ({"image_size": 32, "min_objects": 60, "max_objects": 60}, "Lower min_objects"),
    ],
)
def test_bad_options_are_named_and_leave_nothing_behind(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        create_shapes(tmp_path / "out", **{"num_images": 2, **options})
    assert list(tmp_path.iterdir()) == []


def test_existing_folder(tmp_path):
    create_shapes(tmp_path, num_images=1)  # an empty one is filled
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="not an empty folder. Choose another or remove it"):
        create_shapes(tmp_path, num_images=1)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="not an empty folder"):
        create_shapes(tmp_path / "file", num_images=1)


def test_files_are_plain(tmp_path):
    path = create_shapes(tmp_path / "nested" / "out", num_images=1, image_size=64)
    record = json.loads(path.read_text())
    assert set(record) == {"images", "width", "height", "objects"} and record["width"] == record["height"] == 64
    with Image.open(path.parent / record["images"][0]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))

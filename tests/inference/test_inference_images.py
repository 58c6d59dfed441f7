# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.images and batches."""

import time

import pytest
from PIL import Image

from coordexp_trl.inference.batches import in_background, plan_batches
from coordexp_trl.inference.images import raise_problems, read_images
from coordexp_trl.records import DetectionRecord, write_records


@pytest.fixture
def folder(tmp_path):
    """Images in many forms, and what is none."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[274] = 6  # to be shown upright, turned by a quarter
    image.save(root / "turned.JPG", exif=exif)
    image.convert("L").save(root / "grey.png")
    image.convert("CMYK").save(root / "cmyk.jpeg")
    image.convert("P").save(root / "sub" / "palette.gif")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    return root


def names(images):
    return [record.images[0] for record in images.records]


def test_a_folder(folder):
    images = read_images([folder], show_progress=False)
    assert names(images) == ["cmyk.jpeg", "grey.png", "sub/palette.gif", "turned.JPG"]
    # pixels as they are stored, as everywhere in this package
    assert {(record.width, record.height) for record in images.records} == {(30, 20)}
    assert all(record.image_path.is_file() and record.objects == () for record in images.records)
    assert names(read_images([folder], limit=2, show_progress=False)) == names(images)[:2]
    raise_problems(images)


def test_files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    images = read_images(["turned.JPG", "sub/palette.gif"], show_progress=False)
    assert names(images) == ["turned.JPG", "sub/palette.gif"]


def test_identity_tells_data_apart(folder):
    whole, part = read_images([folder], show_progress=False), read_images([folder / "grey.png"], show_progress=False)
    assert whole.identity == read_images([folder], show_progress=False).identity != part.identity


def test_unusable_files_are_named(folder):
    (folder / "a.png").write_bytes(b"text")
    Image.new("I;16", (4, 4)).save(folder / "b.png")
    images = read_images([folder], show_progress=False)
    assert list(images.problems) == [0, 1]
    with pytest.raises(ValueError, match=r"(?s)2 of 6 images cannot be used:.*a\.png.*b\.png: pixels of mode 'I;16'"):
        raise_problems(images)


def test_missing_files_of_records(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    records = [DetectionRecord((name,), 4, 4, objects=()) for name in ("a.png", "b.png")]
    write_records([*records, DetectionRecord(("b.png", "b.png"), 4, 4, objects=())], tmp_path / "data.jsonl")
    images = read_images([tmp_path / "data.jsonl"], show_progress=False)
    assert list(images.problems) == [0, 2]
    with pytest.raises(
        ValueError, match=r"(?s)data.jsonl:1: images\[0\] = .*a.png': no such file.*images has 2 entries"
    ):
        raise_problems(images)
    (tmp_path / "elsewhere").mkdir()
    moved = read_images([tmp_path / "data.jsonl"], tmp_path / "elsewhere", show_progress=False)
    assert len(moved.problems) == 3


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (["missing"], {}, "data = 'missing': no such file or folder"),
        (["empty"], {}, "the folder holds no image"),
        (["empty", "notes.txt"], {}, "'empty' is no image file"),
        (["a.png"], {"image_root": "empty"}, "image_root is for a JSONL file"),
        (["a.png"], {"limit": 0}, "limit = 0: must be at least 1"),
        (["notes.txt"], {}, "notes.txt:1: column 1: invalid JSON"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, monkeypatch, data, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    Image.new("RGB", (4, 4)).save("a.png")
    with pytest.raises(ValueError, match=message):
        read_images(data, **options, show_progress=False)


def test_batches_hold_images_of_like_length_longest_first():
    assert plan_batches([5, 9, 5, 1, 9], 2) == [[1, 4], [0, 2], [3]]
    assert plan_batches([5, 9, 5, 1, 9], 2, skipped=[4]) == [[1, 0], [2, 3]]
    assert plan_batches([], 2) == []


def test_background_work_keeps_its_order_and_runs_ahead():
    started = []

    def work(job):
        started.append(job)
        return -job

    results = in_background(work, range(6), ahead=2)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while len(started) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started == [0, 1, 2]
    assert list(results) == [-1, -2, -3, -4, -5]


def test_background_errors_come_when_it_is_their_turn():
    def work(job):
        if job == 2:
            raise ValueError("two")
        return job

    results = in_background(work, range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)

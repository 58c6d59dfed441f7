# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from coordexp_trl import images
from coordexp_trl.images import check_images, load_image
from coordexp_trl.records import DetectionRecord, RecordError

WIDTH, HEIGHT = 96, 64


def record(path, width=WIDTH, height=HEIGHT, source="train.jsonl:7"):
    return DetectionRecord([path.name], width, height, [], root=path.parent, source=source)


def save(path, mode="RGB", size=(WIDTH, HEIGHT), orientation=None, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
    image.save(path, **options)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.jpg", "RGB"),
        ("a.jpg", "L"),
        ("a.jpg", "CMYK"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.png", "1"),
        ("a.png", "LA"),
        ("a.webp", "RGB"),
        ("a.gif", "P"),
        ("a.bmp", "RGB"),
        ("a.tiff", "RGB"),
    ],
)
def test_formats(tmp_path, name, mode):
    path = save(tmp_path / name, mode)
    image = load_image(record(path))
    assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)
    with Image.open(path) as stored:
        assert np.array_equal(np.asarray(image), np.asarray(stored.convert("RGB")))
    check_images([record(path)], show_progress=False)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_nothing_rotates_the_image_later(tmp_path, name):
    path = save(tmp_path / name, orientation=6)
    assert ImageOps.exif_transpose(Image.open(path)).size == (HEIGHT, WIDTH)
    image = load_image(record(path))
    assert image.size == (WIDTH, HEIGHT)
    assert ImageOps.exif_transpose(image).size == (WIDTH, HEIGHT)


def make_missing(folder):
    return record(folder / "nothing.jpg")


def make_folder(folder):
    return record(folder)


def make_text(folder):
    path = folder / "a.jpg"
    path.write_text("<html>404</html>")
    return record(path)


def make_empty(folder):
    path = folder / "a.jpg"
    path.touch()
    return record(path)


def make_bomb(folder):
    path = save(folder / "a.png")
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # the header claims 3.6 gigapixels
    path.write_bytes(data)
    return record(path)


BAD = [
    (make_missing, ["no such file", "image root"]),
    (make_folder, ["cannot be decoded", "Is a directory"]),
    (make_text, ["cannot be decoded", "Replace the file"]),
    (make_empty, ["cannot be decoded"]),
    (make_bomb, ["cannot be decoded"]),
    (lambda folder: record(truncate(save(folder / "a.jpg"))), ["cannot be decoded", "truncated"]),
    (lambda folder: record(truncate(save(folder / "a.png"))), ["cannot be decoded", "truncated"]),
    (lambda folder: record(save(folder / "a.png", "I;16")), ["mode 'I;16'", "8 bits"]),
    (lambda folder: record(save(folder / "a.tiff", "F")), ["mode 'F'", "8 bits"]),
    (lambda folder: record(save(folder / "a.jpg"), width=95), ["is 96 x 64 pixels", "says 95 x 64", "Correct width"]),
    (lambda folder: record(save(folder / "a.jpg"), HEIGHT, WIDTH), ["is 96 x 64", "says 64 x 96", "look swapped"]),
    (lambda folder: record(save(folder / "a.jpg", orientation=3), HEIGHT, WIDTH), ["look swapped"]),
    (lambda folder: record(save(folder / "a.jpg", orientation=6), HEIGHT, WIDTH), ["EXIF", "exif_transpose"]),
]


@pytest.mark.parametrize(("make", "parts"), BAD)
def test_bad_images(tmp_path, make, parts):
    bad = make(tmp_path)
    with pytest.raises(RecordError) as loading:
        load_image(bad)
    with pytest.raises(RecordError) as checking:
        check_images([bad], show_progress=False)
    assert str(loading.value).startswith(f"train.jsonl:7: images[0] = {str(bad.image_path)!r}: ")
    for part in parts:
        assert part in str(loading.value)
    assert str(checking.value) == f"1 of 1 records have an unusable image:\n  {loading.value}"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"garbage", b"MM\0*", b"MM\0*\xff\xff\xff\xff garbage"])
def test_damaged_exif_does_not_matter(tmp_path, exif):
    path = save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert load_image(record(path)).size == (WIDTH, HEIGHT)
    with pytest.raises(RecordError, match="look swapped"):
        load_image(record(path, HEIGHT, WIDTH))


class TestCheckImages:
    def test_lists_the_first_five(self, tmp_path):
        good = save(tmp_path / "good.jpg")
        records = [record(good)] * 3 + [record(tmp_path / f"{k}.jpg", source=f"a.jsonl:{k}") for k in range(8)]
        with pytest.raises(RecordError) as error:
            check_images(records, show_progress=False)
        lines = str(error.value).splitlines()
        assert lines[0].startswith("8 of 11 records")
        assert [line.split(": ")[0].strip() for line in lines[1:6]] == [f"a.jsonl:{k}" for k in range(5)]
        assert lines[6:] == ["  ... and 3 more"]

    def test_each_path_is_decoded_once_but_each_record_is_compared(self, tmp_path, monkeypatch):
        path = save(tmp_path / "a.jpg")
        decoded = []
        probe = images._probe
        monkeypatch.setattr(images, "_probe", lambda path: decoded.append(path) or probe(path))
        with pytest.raises(RecordError, match="1 of 3 records have .*\n  b:3: .*says 96 x 65"):
            check_images([record(path), record(path), record(path, height=65, source="b:3")], show_progress=False)
        assert decoded == [path]

    @pytest.mark.parametrize("num_workers", [None, 1, 3])
    def test_workers_and_progress(self, tmp_path, capsys, num_workers):
        records = [record(save(tmp_path / f"{k}.jpg")) for k in range(4)]
        check_images(records, num_workers=num_workers)
        assert "Checking images" in capsys.readouterr().err
        check_images(iter(records), num_workers=num_workers, show_progress=False)
        assert capsys.readouterr().err == ""

    def test_bad_num_workers(self):
        with pytest.raises(ValueError, match="num_workers = 0"):
            check_images([], num_workers=0)

    def test_no_records(self):
        check_images([], show_progress=False)

    def test_without_source_and_root(self):
        with pytest.raises(RecordError, match="^images\\[0\\] = 'nothing.jpg': no such file"):
            load_image(DetectionRecord([str(Path("nothing.jpg"))], 1, 1, []))

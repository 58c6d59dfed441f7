# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.validation and coordexp data validate."""

import json

import numpy as np
import pytest
from PIL import Image

from coordexp_trl.cli import main
from coordexp_trl.datasets.validation import validate_file
from coordexp_trl.records import RecordError
from coordexp_trl.tiny import create_tiny_checkpoint

BOX = {"desc": "cat", "bbox_2d": [10, 20, 30, 40]}


def record(*objects, image="a.png", width=200, height=100, **more):
    return {"images": [image], "width": width, "height": height, "objects": list(objects), **more}


@pytest.fixture
def validate(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")

    def run(*lines, **options):
        parts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / "a.jsonl").write_bytes(b"\n".join(parts))
        return validate_file(tmp_path / "a.jsonl", show_progress=False, **options)

    return run


def kinds(report):
    return [(problem.line, problem.kind) for problem in report.problems]


def test_a_clean_file(validate):
    report = validate(record(BOX), b"", record(image="a.png"), check_images=False)
    assert (report.records, report.objects) == (2, 1)
    assert kinds(report) == [(3, "image listed twice")] and not report.errors


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", "invalid JSON"),
        (b'{"images": ["a.png"], "width": 200, "hei', "invalid JSON"),  # a copy that was cut short
        (b"[1]", "not a JSON object"),
        (b'{"images": ["\xff"]}', "not UTF-8"),
        ({"images": ["a.png"], "width": 200, "height": 100}, "missing field"),
        (record(BOX, bbox=1), "unknown field"),
        (record(BOX, image="../a.png"), "path leaves the image root"),
        (record(BOX, width=0), "image size"),
        (record(BOX, width="200"), "image size"),
        (record({"desc": " ", "bbox_2d": [1, 2, 3, 4]}), "description"),
        (record({"desc": "cat", "bbox_2d": [1, 2, 3]}), "number of coordinates"),
        (record({"desc": "cat", "bbox_2d": [30, 20, 10, 40]}), "inverted or empty box"),
        (record({"desc": "cat", "bbox_2d": [10, 20, 300, 40]}), "outside the image"),
        (record({"desc": "cat", "bbox_2d": [10, 20, float("nan"), 40]}), "not a coordinate"),
        (record({"desc": "cat", "poly": [10, 20, float("nan"), 40, 10**400, 5]}), "not a coordinate"),
        (record({"desc": "cat", "bbox_2d": [10, 20, True, 40]}), "not a coordinate"),
        (record({"desc": "cat", "bbox_2d": [1, 2, "<|coord_3|>", 4]}), "pixels and tokens mixed"),
        (record({"desc": "cat", "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 1000, 4)]}), "token outside the bins"),
        (record({"desc": "cat", "bbox_2d": [1, 2, 3, 4], "poly": [1, 2, 3, 4, 5, 6]}), "not one geometry"),
    ],
)
def test_each_fault_is_named_with_its_line(validate, line, kind):
    report = validate(record(BOX), line, record(BOX, image="a.png"))
    assert [item for item in kinds(report) if item[0] == 2] == [(2, kind)]
    assert "a.jsonl:2: " in next(problem.message for problem in report.problems if problem.line == 2)
    assert report.records == 2 and report.errors == {kind: 1}


def test_all_faults_of_a_record_are_found(validate):
    report = validate(record({"desc": "", "bbox_2d": [1, 2, 3, 4]}, BOX, {"desc": "cat", "bbox_2d": [9, 9, 9, 9]}))
    assert kinds(report) == [(1, "description"), (1, "inverted or empty box")]
    assert "objects[2]" in report.problems[1].message


def test_an_empty_file(validate):
    assert kinds(validate(b"")) == [(0, "no record")]


def test_a_byte_order_mark_is_no_fault(validate):
    assert not validate(b"\xef\xbb\xbf" + json.dumps(record(BOX)).encode()).problems


def test_a_missing_file(tmp_path):
    with pytest.raises(RecordError, match=r"no\.jsonl"):
        validate_file(tmp_path / "no.jsonl")


def test_warnings(validate):
    circle = np.stack([50 + 40 * np.cos(np.arange(1500) / 300), 50 + 40 * np.sin(np.arange(1500) / 300)], 1)
    report = validate(record(BOX, BOX, {"desc": "dog", "poly": circle.ravel().tolist()}))
    assert kinds(report) == [(1, "object written twice"), (1, "huge polygon")]
    assert not report.errors and report.warnings == {"object written twice": 1, "huge polygon": 1}


def save_rotated(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (200, 100)).save(path, exif=exif)


def save_cut(path):
    Image.effect_noise((200, 100), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    ("save", "size", "kind", "words"),
    [
        (None, (200, 100), "missing image", "no such file"),
        (save_cut, (200, 100), "unusable image", "cannot be decoded"),
        (save_rotated, (100, 200), "size of the image", "EXIF"),
        (save_rotated, (200, 100), None, ""),
        (lambda path: Image.new("RGB", (200, 100)).save(path), (100, 200), "size of the image", "swapped"),
        (lambda path: Image.new("RGB", (640, 480)).save(path), (200, 100), "size of the image", "640 x 480"),
        (lambda path: Image.new("L", (200, 100)).save(path), (200, 100), None, ""),
        (lambda path: Image.new("CMYK", (200, 100)).save(path), (200, 100), None, ""),
    ],
)
def test_images(validate, tmp_path, save, size, kind, words):
    if save is not None:
        save(tmp_path / "b.jpg")
    report = validate(record(BOX), record(image="b.jpg", width=size[0], height=size[1]))
    assert kinds(report) == ([(2, kind)] if kind else [])
    assert all(words in problem.message for problem in report.problems)
    assert not validate(record(image="b.jpg", width=size[0], height=size[1]), check_images=False).problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda box, width, height: box / [width, height, width, height], "normalised"),
        (lambda box, width, height: np.concatenate([box[:2], box[2:] - box[:2]]), "x, y, width, height"),
    ],
)
def test_another_convention_is_named(validate, change, words):
    rng, lines = np.random.default_rng(0), []
    for _ in range(40):
        corner, side = rng.uniform([70, 40], [120, 60]), rng.uniform(10, 40, 2)
        box = change(np.concatenate([corner, corner + side]), 200, 100)
        lines.append(record({"desc": "cat", "bbox_2d": box.tolist()}))
    report = validate(*lines, check_images=False)
    messages = [problem.message for problem in report.problems if problem.kind == "convention of the boxes"]
    assert len(messages) == 1 and words in messages[0]


def test_descriptions_that_cannot_be_written(validate, tmp_path, capsys):
    checkpoint = create_tiny_checkpoint(tmp_path / "model")
    validate(record({"desc": "cat <|im_end|>", "bbox_2d": [1, 2, 3, 4]}))
    assert main(["data", "validate", str(tmp_path / "a.jsonl")]) == 0
    assert main(["data", "validate", str(tmp_path / "a.jsonl"), "--model", str(checkpoint)]) == 1
    assert "'tags' protocol" in capsys.readouterr().out


def test_the_command(validate, tmp_path, capsys):
    path = str(tmp_path / "a.jsonl")
    validate(record(BOX))
    assert main(["data", "validate", path]) == 0
    assert "clean" in capsys.readouterr().out
    validate(record(BOX, BOX))
    assert main(["data", "validate", path]) == 0
    assert main(["data", "validate", path, "--strict"]) == 1
    validate(*[record(BOX, width=-1)] * 3)
    capsys.readouterr()
    assert main(["data", "validate", path, "--max-problems", "2"]) == 1
    assert "and 1 more problems" in capsys.readouterr().out
    assert main(["data", "validate", path, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["errors"] == {"image size": 3}
    assert main(["data", "validate", str(tmp_path / "no.jsonl")]) == 2


@pytest.mark.shared_data
def test_real_data_is_clean(shared_data, tmp_path):
    voc, coco = shared_data / "bccd", shared_data / "coco_permissive"
    convert = ["data", "convert"]
    cells, scenes = str(tmp_path / "cells.jsonl"), str(tmp_path / "scenes.jsonl")
    options = ["--annotations", str(voc / "Annotations"), "--images", str(voc / "JPEGImages"), "--out", cells]
    assert main([*convert, "voc", *options]) == 0
    options = ["--annotations", str(coco / "instances_val2017.json"), "--images", str(coco / "images" / "val2017")]
    assert main([*convert, "coco", *options, "--geometry", "polygon", "--out", scenes]) == 0
    assert main(["data", "validate", cells, scenes, "--strict"]) == 0

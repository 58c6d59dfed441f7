# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of `coordexp data convert coco`, `coordexp data convert lvis` and `coordexp data export coco`."""

import json

import pytest
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.records import read_records

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "img" / "a.jpg")
    federated = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30, **federated},
            {"id": 8, "coco_url": "http://host/val/gone.jpg", "width": 40, "height": 30, **federated},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 10], "segmentation": [SQUARE]},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 10], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "cat", "frequency": "c"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path


def run(capsys, *argv):
    status = cli.main(["data", *argv])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", ["coco", "lvis"])
def test_convert_and_export(folder, capsys, name):
    options = ["--annotations", "coco.json", "--images", "img", "--out", "a.jsonl"]
    status, _, err = run(capsys, "convert", name, *options)
    assert status == 2 and "error: 1 of 2 images cannot be used" in err and "images[1] (id 8)" in err
    status, out, _ = run(capsys, "convert", name, *options, "--skip-missing-images", "--geometry", "polygon")
    assert not status and "wrote a.jsonl" in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert {"images 1", "objects in 2", "objects out 1", "dropped: crowd 1", "note: image missing 1"} <= set(rows)
    (record,) = read_records("a.jsonl")
    assert record.images == ("img/a.jpg",) and record.objects[0].poly == tuple(SQUARE)
    assert ("neg_category_ids" in record.metadata) == (name == "lvis")

    status, out, _ = run(capsys, "export", "coco", "a.jsonl", "--out", "b.json", "--images", "img")
    assert not status and "wrote b.json" in out
    content = json.loads((folder / "b.json").read_text())
    assert content["images"][0]["file_name"] == "a.jpg" and content["images"][0]["id"] == 7
    assert content["annotations"][0] | {"segmentation": [SQUARE], "bbox": [2, 3, 10, 10]} == content["annotations"][0]


def test_options_reach_the_converter(folder, capsys):
    (folder / "rename.json").write_text('{"cat": "black cat"}')
    arguments = ["convert", "coco", "--annotations", "coco.json", "--out", "a.jsonl"]
    status, *_ = run(capsys, *arguments, "--rename", "rename.json", "--skip-unannotated")
    (record,) = read_records("a.jsonl")
    assert not status and record.objects[0].desc == "black cat" and record.objects[0].bbox_2d == (2, 3, 12, 13)

    content = json.loads((folder / "coco.json").read_text())
    content["annotations"] = [{"image_id": 7, "category_id": 3, "bbox": [25, 20, 38, 29]}] * 3 + [
        {"id": number, "image_id": 7, "category_id": 3, "bbox": [25, 20, 38, 20 + number]} for number in range(1, 10)
    ]
    (folder / "coco.json").write_text(json.dumps(content))
    status, _, err = run(capsys, *arguments)
    assert status == 2 and "look like x1, y1, x2, y2" in err and "--no-convention-check" in err
    assert not run(capsys, *arguments, "--no_convention_check")[0]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the doctor finds in data."""

import json

import numpy as np
import pytest
from PIL import Image

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.doctor import data
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.data import check_data
from coordexp_trl.tiny import create_tiny_checkpoint


@pytest.fixture
def shapes(tmp_path):
    """A sound file of 20 records."""
    return create_shapes(tmp_path / "shapes", num_images=20, seed=0, max_objects=4)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return Checkpoint(tiny_checkpoint)


def examined(path, by_name, checkpoint=None, root=None, protocol="tags"):
    return by_name(check_data(str(path), root, protocol, checkpoint))


def problems(checks):
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


def rewrite(path, change):
    """Changes each record of a file."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(record)) + "\n" for record in records))


def with_boxes(convert):
    def change(record):
        for item in record["objects"]:
            item["bbox_2d"] = convert(*item["bbox_2d"], record["width"], record["height"])
        return record

    return change


@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_sound_records(shapes, by_name, checkpoint, protocol):
    checks = examined(shapes, by_name, checkpoint, protocol=protocol)
    assert problems(checks) == {}
    assert set(checks) == {"data.records", "data.images", "data.convention", "data.lengths"}
    assert checks["data.records"].message.startswith(f"{shapes}: 20 records with ")
    assert "20 images decoded" in checks["data.images"].message
    assert "boxes in pixels (xyxy), all within their images" in checks["data.convention"].message
    assert f"in {protocol!r}; both fit (max_completion_length 1024, context 4096)" in checks["data.lengths"].message


def test_only_the_beginning_is_read(shapes, by_name, monkeypatch, checkpoint):
    monkeypatch.setattr(data, "MAX_RECORDS", 5)
    monkeypatch.setattr(data, "MAX_IMAGES", 2)
    lines = shapes.read_text().splitlines()
    shapes.write_text("\n".join([*lines[:5], "not a record"]))
    (shapes.parent / json.loads(lines[2])["images"][0]).unlink()
    checks = examined(shapes, by_name, checkpoint)
    assert problems(checks) == {}
    assert "5 records" in checks["data.records"].message and "the first 5 lines" in checks["data.records"].message
    assert "2 images decoded" in checks["data.images"].message


def test_tokens_instead_of_pixels(shapes, by_name):
    rewrite(shapes, with_boxes(lambda *box: [f"<|coord_{k}|>" for k in (1, 2, 3, 4)]))
    checks = examined(shapes, by_name)
    assert problems(checks) == {"data.records": "warn"}  # objects written twice
    assert "boxes or polygons in coordinate tokens" in checks["data.convention"].message


def test_wrong_lines(shapes, by_name, checkpoint):
    lines = shapes.read_text().splitlines()
    shapes.write_text("\n".join(["{", '{"images": []}', *lines]))
    checks = examined(shapes, by_name, checkpoint)
    check = checks["data.records"]
    assert check.status == "fail" and f"{shapes}:1" in check.message and "20 records" in check.message
    assert f"coordexp data validate {shapes}" in check.remedy
    assert "data.lengths" not in checks


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda x1, y1, x2, y2, w, h: [x1 / w, y1 / h, x2 / w, y2 / h], "look normalised"),
        (lambda x1, y1, x2, y2, w, h: [x1 * 1000 / w, y1 * 1000 / h, x2 * 1000 / w, y2 * 1000 / h], "1000-scaled"),
    ],
)
def test_other_conventions(tmp_path, by_name, convert, message):
    path = create_shapes(tmp_path / "many", num_images=40, seed=0)
    rewrite(path, with_boxes(convert))
    check = examined(path, by_name)["data.convention"]
    assert check.status == "fail" and message in check.message and "xyxy in pixels" in check.remedy


def test_images(shapes, by_name):
    records = [json.loads(line) for line in shapes.read_text().splitlines()]
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(shapes.parent / records[1]["images"][0])
    (shapes.parent / records[0]["images"][0]).unlink()
    check = examined(shapes, by_name)["data.images"]
    assert check.status == "fail" and check.message.startswith("2 of 20 images: ")
    assert "no such file" in check.message and "9" in check.message
    assert "20 of 20 images" in examined(shapes, by_name, root=str(shapes.parent / "no"))["data.images"].message


def test_no_objects_and_images_listed_twice(shapes, by_name):
    rewrite(shapes, lambda record: record | {"objects": []})
    check = examined(shapes, by_name)["data.records"]
    assert check.status == "warn" and "nothing to learn from" in check.message
    line = shapes.read_text().splitlines()[0]
    shapes.write_text(f"{line}\n{line}\n")
    check = examined(shapes, by_name)["data.records"]
    assert check.status == "warn" and "stands in line 1 already" in check.message


def test_lengths(shapes, by_name, checkpoint, tmp_path):
    sample = json.loads(shapes.read_text().splitlines()[0])
    many = [sample["objects"][0] | {"desc": f"thing {k}"} for k in range(100)]
    shapes.write_text(json.dumps(sample | {"objects": many}))
    check = examined(shapes, by_name, checkpoint)["data.lengths"]
    assert check.status == "warn" and "1 of 1 records are longer than max_completion_length = 1024" in check.message
    longest = int(check.remedy.split("Set max_completion_length to ")[1].split()[0])
    assert str(longest) in check.message and longest > 1024
    assert examined(shapes, by_name, checkpoint, protocol="json")["data.lengths"].status == "warn"

    short = create_tiny_checkpoint(tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 1060
    (short / "config.json").write_text(json.dumps(config))
    check = examined(shapes, by_name, Checkpoint(short))["data.lengths"]
    assert check.status == "fail" and "the context is 1060" in check.message

    shapes.write_text(json.dumps(sample))
    check = examined(shapes, by_name, Checkpoint(short))["data.lengths"]
    assert check.status == "warn" and "with max_completion_length = 1024 it makes" in check.message


def test_descriptions_that_cannot_be_written(shapes, by_name, checkpoint):
    rewrite(shapes, lambda record: record | {"objects": [o | {"desc": "<|im_end|>"} for o in record["objects"]]})
    check = examined(shapes, by_name, checkpoint)["data.lengths"]
    assert check.status == "fail" and "special token" in check.message


def test_a_checkpoint_without_coordinate_tokens(shapes, by_name, tmp_path):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0)
    check = examined(shapes, by_name, Checkpoint(plain))["data.lengths"]
    assert check.status == "fail" and "expand-vocab" in check.message + check.remedy


def test_files_that_are_no_records(tmp_path, by_name):
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    check = examined(tmp_path / "instances.json", by_name)["data.file"]
    assert check.status == "fail" and "convert coco" in check.remedy
    assert "does not exist" in examined(tmp_path / "absent.jsonl", by_name)["data.file"].message
    assert "is a folder" in examined(tmp_path, by_name)["data.file"].message
    (tmp_path / "empty.jsonl").write_text("")
    assert examined(tmp_path / "empty.jsonl", by_name)["data.records"].status == "fail"


def test_records_in_a_file_named_json(shapes, by_name):
    shapes = shapes.rename(shapes.with_suffix(".json"))
    assert problems(examined(shapes, by_name)) == {}


def test_fusion(shapes, by_name, tmp_path):
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text(
        f"datasets:\n  - {{name: good, train_jsonl: {shapes}}}\n"
        "  - {name: bad, train_jsonl: absent.jsonl, val_jsonl: null}\n"
    )
    checks = list(check_data(str(fusion), None, "tags", None))
    assert [(check.name, check.status) for check in checks] == [
        ("data.records", "ok"),
        ("data.images", "ok"),
        ("data.convention", "ok"),
        ("data.file", "fail"),
    ]
    assert str(tmp_path / "absent.jsonl") in checks[-1].message
    fusion.write_text("datasets: []\n")
    check = examined(fusion, by_name)["data.fusion"]
    assert check.status == "fail" and "names no dataset" in check.message


@pytest.mark.shared_data
def test_blood_cells(shared_data, tmp_path, by_name, checkpoint):
    from coordexp_trl import cli

    out = tmp_path / "bccd.jsonl"
    folder = shared_data / "bccd"
    argv = ["data", "convert", "voc", "--annotations", folder / "Annotations", "--images", folder / "JPEGImages"]
    assert cli.main([*map(str, argv), "--out", str(out)]) == 0
    checks = examined(out, by_name, checkpoint)
    assert problems(checks) == {}
    assert "364 records with 48" in checks["data.records"].message

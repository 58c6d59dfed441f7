# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of `coordexp data resize`, `tokens`, `sample` and `lvis`."""

import json

import pytest
from PIL import Image

from coordexp_trl.cli import main
from coordexp_trl.images import check_images
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records

VARIABLES = ["FACTOR", "MAX_BLOCKS", "MIN_BLOCKS", "POLY_MAX_POINTS", "TINY", "NUM_WORKERS", "SPLITS"]
VARIABLES += ["RAW_ROOT", "OUTPUT_BASE"]


def run(capsys, *argv):
    status = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def counts(out):
    """The table of a command as a dict."""
    rows = [line.rsplit(maxsplit=1) for line in out.splitlines() if line.strip()]
    return {name.strip(): int(value) for name, value in (row for row in rows if len(row) == 2) if value.isdigit()}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "in").mkdir()
    records = []
    for k in range(4):
        Image.new("RGB", (100 + k, 70), (9, 90, 200)).save(tmp_path / "in" / f"{k}.jpg")
        records.append(DetectionRecord([f"{k}.jpg"], 100 + k, 70, [DetectionObject("cat", (10, 10, 60, 50))]))
    write_records(records, tmp_path / "in" / "a.jsonl")
    return tmp_path / "in" / "a.jsonl"


def test_resize_tokens_and_sample(capsys, data, tmp_path):
    out_file = tmp_path / "out" / "a.jsonl"
    argv = ["data", "resize", data, "--num_workers", 1]
    status, out, err = run(capsys, *argv, "--out", tmp_path / "out")
    assert status == 0 and out.endswith(f"wrote {out_file}\n") and "Resizing" in err
    assert counts(out) == {"images": 4, "objects in": 4, "objects out": 4}
    records = read_records(out_file)
    check_images(records, show_progress=False)
    assert [(record.width, record.height) for record in records] == [(96, 64)] * 4

    options = ["--factor", 16, "--max-blocks", 12, "--min-blocks", 2, "--quality", 50]
    small = tmp_path / "small" / "b.jsonl"
    assert run(capsys, *argv, "--out", small, *options)[0] == 0
    (size,) = {(record.width, record.height) for record in read_records(small)}
    assert size == (64, 32)
    settings = json.loads((tmp_path / "small/images/b/.resized.jsonl").read_text().splitlines()[0])["settings"]
    assert settings == {"factor": 16, "max_blocks": 12, "min_blocks": 2, "quality": 50}

    status, out, _ = run(capsys, "data", "tokens", out_file)
    coord = tmp_path / "out" / "a.coord.jsonl"
    assert status == 0 and out.endswith(f"wrote {coord}\n") and counts(out)["objects out"] == 4
    assert read_records(coord)[0].objects[0].bins == (104, 140, 604, 718)
    status, out, _ = run(capsys, "data", "tokens", coord, "--inverse", "--out", tmp_path / "out" / "back.jsonl")
    assert status == 0
    assert read_records(tmp_path / "out" / "back.jsonl")[0].objects[0].bbox_2d == pytest.approx(
        (10, 9, 58, 46), abs=0.1
    )
    assert run(capsys, "data", "tokens", out_file, "--num-bins", 11, "--out", tmp_path / "out" / "c.jsonl")[0] == 0
    assert read_records(tmp_path / "out" / "c.jsonl")[0].objects[0].bins == (1, 1, 6, 7)

    tiny = tmp_path / "out" / "tiny.jsonl"
    status, out, _ = run(capsys, "data", "sample", out_file, "--num", 2, "--seed", 3, "--out", tiny)
    assert (status, out) == (0, f"wrote 2 records to {tiny}\n")
    assert len(read_records(tiny)) == 2


def test_image_root(capsys, data, tmp_path):
    moved = data.rename(tmp_path / "a.jsonl")
    root = ["--image-root", tmp_path / "in"]
    assert run(capsys, "data", "resize", moved, "--out", tmp_path / "out", "--num-workers", 1, *root)[0] == 0
    check_images(read_records(tmp_path / "out" / "a.jsonl"), show_progress=False)
    assert run(capsys, "data", "tokens", moved, *root)[0] == 0
    assert run(capsys, "data", "sample", moved, "--num", 2, *root)[0] == 0
    for name in ("a.coord.jsonl", "a_sample.jsonl"):
        check_images(read_records(tmp_path / name), show_progress=False)


def test_mistakes_are_one_line(capsys, data, tmp_path):
    resize = ["data", "resize", data, "--out", tmp_path / "out", "--num-workers", 1]
    assert "factor = 0" in run(capsys, *resize, "--factor", 0)[2]
    assert "no such file" not in run(capsys, *resize)[2]
    (data.parent / "2.jpg").unlink()
    status, _, err = run(capsys, *resize)
    assert status == 2 and "error: 1 of 4 images are unusable:" in err and "a.jsonl:3: " in err
    status, out, _ = run(capsys, *resize, "--skip-bad-images")
    assert status == 0 and counts(out)["dropped: unusable image"] == 1
    assert "is the file that is read" in run(capsys, "data", "tokens", data, "--out", data)[2]
    assert "has only 4 records" in run(capsys, "data", "sample", data, "--num", 5)[2]


class TestLvis:
    @pytest.fixture
    def raw(self, tmp_path, monkeypatch):
        """A folder of downloads with two images of each split; none of the variables is set."""
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        polygon = [10, 10, 35, 9, 60, 10, 60, 50, 35, 51, 10, 50]
        for split in ("train", "val"):
            folder = tmp_path / "raw" / "images" / f"{split}2017"
            folder.mkdir(parents=True)
            images, annotations = [], []
            for k in range(2):
                Image.new("RGB", (100, 70)).save(folder / f"{k}.jpg")
                image = {"id": k, "width": 100, "height": 70, "coco_url": f"http://x/{split}2017/{k}.jpg"}
                images.append(image | {"neg_category_ids": [], "not_exhaustive_category_ids": []})
                one = {"id": k, "image_id": k, "category_id": 1, "bbox": [10, 9, 50, 42], "segmentation": [polygon]}
                annotations.append(one)
            content = {"images": images, "annotations": annotations}
            content["categories"] = [{"id": 1, "name": "cat", "frequency": "c"}]
            path = tmp_path / "raw" / "annotations" / f"lvis_v1_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        return tmp_path / "raw"

    def test_options(self, capsys, raw, tmp_path):
        argv = ["--raw-root", raw, "--output-base", tmp_path, "--num-workers", 1]
        argv += ["--factor", 16, "--max_blocks", 30, "--min-blocks", 2, "--poly-max-points", 4, "--tiny", 1]
        status, out, _ = run(capsys, "data", "lvis", *argv)
        folder = tmp_path / "rescale_16_30"
        assert status == 0 and out.endswith(f"wrote {folder}\n")
        rows = [line.split() for line in out.splitlines() if line.strip(" ─")]
        assert rows[:4] == [
            ["train", "val"],
            ["images", "2", "2"],
            ["objects", "in", "2", "2"],
            ["objects", "out", "2", "2"],
        ]
        assert sorted(path.name for path in folder.glob("*.jsonl")) == sorted(
            f"{split}{kind}.jsonl" for split in ("train", "val") for kind in ("", ".coord", "_tiny", "_tiny.coord")
        )
        (record, _) = read_records(folder / "train.jsonl")
        assert (record.width, record.height) == (96, 64) and len(record.objects[0].poly) == 8
        assert len(read_records(folder / "val_tiny.coord.jsonl")) == 1

    def test_variables_and_that_options_win(self, capsys, raw, tmp_path, monkeypatch):
        values = ["16", "99", "2", "5", "1", "1", "val", str(raw), str(tmp_path)]
        for name, value in zip(VARIABLES, values, strict=True):
            monkeypatch.setenv(name, value)
        assert run(capsys, "data", "lvis", "--max-blocks", 30, "--poly-max-points", 6)[0] == 0
        folder = tmp_path / "rescale_16_30"
        assert sorted(path.name for path in folder.glob("*.jsonl")) == [
            "val.coord.jsonl",
            "val.jsonl",
            "val_tiny.coord.jsonl",
            "val_tiny.jsonl",
        ]
        assert len(read_records(folder / "val_tiny.jsonl")) == 1
        assert len(read_records(folder / "val.jsonl")[0].objects[0].poly) == 12

    def test_mistakes(self, capsys, raw, tmp_path, monkeypatch):
        assert "--raw-root is missing. Give it, or set the variable RAW_ROOT" in run(capsys, "data", "lvis")[2]
        monkeypatch.setenv("RAW_ROOT", str(raw))
        assert "--output-base is missing" in run(capsys, "data", "lvis")[2]
        monkeypatch.setenv("OUTPUT_BASE", str(tmp_path))
        monkeypatch.setenv("FACTOR", "many")
        assert "environment variable FACTOR = 'many': must be an integer" in run(capsys, "data", "lvis")[2]
        monkeypatch.setenv("FACTOR", "")  # as if it were not set
        (raw / "annotations" / "lvis_v1_val.json").unlink()
        status, _, err = run(capsys, "data", "lvis")
        assert status == 2 and "no annotations of the split 'val'" in err
        assert run(capsys, "data", "lvis", "--splits", "train", "--num-workers", 1)[0] == 0

    def test_other_files(self, capsys, raw, tmp_path):
        annotations = (raw / "annotations" / "lvis_v1_val.json").rename(tmp_path / "mine.json")
        (raw / "images").rename(tmp_path / "photos")
        (tmp_path / "photos" / "val2017" / "1.jpg").unlink()
        argv = ["--raw-root", raw, "--output-base", tmp_path, "--splits", "val", "--num-workers", 1]
        argv += ["--val-annotations", annotations, "--images", tmp_path / "photos", "--geometry", "box"]
        assert run(capsys, "data", "lvis", *argv)[0] == 2
        status, out, _ = run(capsys, "data", "lvis", *argv, "--skip-missing-images")
        assert status == 0 and counts(out)["dropped: image missing"] == 1
        (record,) = read_records(tmp_path / "rescale_32_768" / "val.jsonl")
        assert record.objects[0].bbox_2d == (10, 8, 58, 47)


@pytest.mark.parametrize("written", [["{}"], ["--data", "{}"], ["--data={}"]])
def test_the_records_may_be_given_by_name_too(capsys, data, tmp_path, written):
    argv = [item.format(data) for item in written]
    assert run(capsys, "data", "sample", *argv, "--num", 1, "--out", tmp_path / "one.jsonl")[0] == 0
    assert len(read_records(tmp_path / "one.jsonl")) == 1

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of `coordexp report`."""

import csv
import json

import pytest

from coordexp_trl import cli
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.records import read_records


def run(capsys, *argv):
    """Exit status, stdout and stderr of a command."""
    try:
        status = cli.main([str(argument) for argument in argv])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


@pytest.fixture
def evaluation(tmp_path):
    """An evaluation of shapes that were all found, images by relative paths."""
    create_shapes(tmp_path / "shapes", num_images=4, seed=0)
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / "per_image.jsonl", "w", encoding="utf-8") as file:
        for record in read_records(tmp_path / "shapes" / "shapes.jsonl"):
            boxes = [{"desc": item.desc, "bbox_2d": list(item.bbox_2d)} for item in record.objects]
            line = {"image": record.images[0], "width": record.width, "height": record.height}
            line |= {"tp": len(boxes), "fp": 0, "fn": 0}
            line["ground_truth"] = [box | {"status": "matched"} for box in boxes]
            line["predictions"] = [box | {"status": "tp"} for box in boxes]
            file.write(json.dumps(line) + "\n")
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"f1_50": 1.0}}), encoding="utf-8")
    with open(folder / "per_class.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["class", "gt"], ["red square", 4]])
    return folder


def test_a_report_of_shapes(capsys, evaluation, tmp_path):
    out = tmp_path / "new" / "report.html"
    options = ("--run", evaluation, "--out", out, "--image_root", tmp_path / "shapes", "--max-images", 3)
    status, printed, progress = run(capsys, "report", *options)
    assert (status, out.read_text("utf-8").count("<img")) == (0, 2 * 3)
    assert printed == f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB, 3 images)\n"
    assert "Drawing images" in progress and "3/3" in progress


def test_images_that_are_not_found_are_counted(capsys, evaluation, tmp_path):
    status, printed, _ = run(capsys, "report", "--run", evaluation, "--out", tmp_path / "report.html")
    assert status == 0 and printed.startswith("4 of 4 image files could not be read and are drawn on grey\nwrote ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-images", "-1"], "error: max_images = -1: must be 0 or more"),
        (["--num-workers", "0"], "error: num_workers = 0"),
        (["--image-root", "missing"], "error: image_root = 'missing': is no folder"),
        (["--sort", "size"], "invalid choice: 'size'"),
    ],
)
def test_mistakes(capsys, evaluation, tmp_path, options, message):
    out = tmp_path / "report.html"
    status, printed, err = run(capsys, "report", "--run", evaluation, "--out", out, *options)
    assert (status, printed) == (2, "") and message in err and not out.exists()


def test_an_empty_folder(capsys, tmp_path):
    status, _, err = run(capsys, "report", "--run", tmp_path, "--out", tmp_path / "report.html")
    assert status == 2 and err.startswith("error: ") and "coordexp eval" in err and "coordexp infer" in err

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.statistics and coordexp data stats."""

import json

import pytest

from coordexp_trl.cli import main
from coordexp_trl.datasets.statistics import dataset_statistics, summary
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject, DetectionRecord, write_records
from coordexp_trl.tiny import create_tiny_checkpoint


def record(*objects, size=(200, 100)):
    return DetectionRecord(("a.png",), *size, tuple(objects))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return create_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def data(tmp_path):
    write_records(
        [
            record(
                DetectionObject("Red_Car", (0, 0, 20, 10)),  # 200 px², side sqrt(0.01)
                DetectionObject("red car", (0, 0, 20, 20)),  # IoU 1/2 with the first
                DetectionObject("cat", (0, 0, 20, 20)),  # the same place, another class
            ),
            record(),
            record(DetectionObject("dog", poly=(0, 0, 100, 0, 100, 97, 0, 97, 0, 50))),  # 9700 px²: large
            record(DetectionObject("dog", bins=(0, 0, 499, 999)), size=(100, 40)),
        ],
        tmp_path / "a.jsonl",
    )
    return tmp_path / "a.jsonl"


def test_counts(data):
    found = dataset_statistics(data, show_progress=False)
    assert (found["images"], found["empty_images"], found["objects"], found["polygons"]) == (4, 1, 5, 1)
    assert list(found["classes"].items()) == [("red car", 2), ("dog", 2), ("cat", 1)]
    assert found["objects_per_image"]["mean"] == 1.25 and found["objects_per_image"]["max"] == 3
    assert found["vertices"] == summary([5])
    assert found["sizes"] == {"small": 3, "medium": 1, "large": 1}
    assert found["largest_same_class_iou"] == pytest.approx(0.5)
    assert found["relative_side"]["max"] == pytest.approx((499 / 999) ** 0.5)
    assert found["tokens"] == {}


def test_without_two_objects_of_a_class_nothing_overlaps(tmp_path):
    write_records([record(DetectionObject("a", (0, 0, 9, 9)))], tmp_path / "a.jsonl")
    found = dataset_statistics(tmp_path / "a.jsonl", show_progress=False)
    assert found["largest_same_class_iou"] is None and found["vertices"] is None


def test_objects_apart_have_an_overlap_of_zero(tmp_path):
    objects = DetectionObject("a", (0, 0, 9, 9)), DetectionObject("a", (50, 50, 60, 60))
    write_records([record(*objects)] * 2, tmp_path / "a.jsonl")
    assert dataset_statistics(tmp_path / "a.jsonl", show_progress=False)["largest_same_class_iou"] == 0.0


@pytest.mark.parametrize("name", ["tags", "json"])
def test_token_lengths_are_those_of_the_protocol(data, checkpoint, name):
    from transformers import AutoTokenizer

    protocol = get_protocol(name, AutoTokenizer.from_pretrained(checkpoint))
    boxes = dataset_statistics(data, [protocol], show_progress=False)["tokens"][name]
    outlines = dataset_statistics(data, [protocol], "native", show_progress=False)["tokens"][name]
    objects = [("Red_Car", (0, 0, 100, 100)), ("cat", (0, 0, 100, 200)), ("red car", (0, 0, 100, 200))]
    longest = protocol.encode([DetectionObject(desc, bins=bins) for desc, bins in objects])
    assert boxes["max"] == len(longest) + 1  # the end token
    assert boxes["fits_all"] % 64 == 0 and boxes["max"] <= boxes["fits_all"] < boxes["max"] + 64
    assert boxes["records_beyond"] == 0
    assert outlines["mean"] > boxes["mean"]


def test_records_beyond_the_suggested_length(tmp_path, checkpoint):
    from transformers import AutoTokenizer

    protocol = get_protocol("tags", AutoTokenizer.from_pretrained(checkpoint))
    few, many = [DetectionObject("a", (0, 0, 9, 9))], [DetectionObject("a", (0, 0, 9, 9))] * 50
    write_records([record(*few)] * 200 + [record(*many)], tmp_path / "a.jsonl")
    found = dataset_statistics(tmp_path / "a.jsonl", [protocol], show_progress=False)["tokens"]["tags"]
    assert found["fits_99_percent"] == 64 and found["records_beyond"] == 1 and found["fits_all"] >= found["max"]


def test_command(data, checkpoint, capsys):
    assert main(["data", "stats", str(data), "--model", str(checkpoint), "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "red car" in out and "and 2 more classes" in out and "json: max_completion_length" in out
    assert main(["data", "stats", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 5


def test_a_bad_record_is_named(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"images": ["a.png"], "width": 9, "height": 9}\n')
    assert main(["data", "stats", str(tmp_path / "a.jsonl")]) == 2
    assert "a.jsonl:1: objects: is missing" in capsys.readouterr().err

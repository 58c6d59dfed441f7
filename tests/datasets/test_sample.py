# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.sample."""

from collections import Counter

import pytest

from coordexp_trl.datasets.sample import sample_records
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError, read_records, write_records


@pytest.fixture
def data(tmp_path):
    """A file of 30 records, `00.jpg` to `29.jpg`, with a blank line."""
    objects = [DetectionObject("a", (1, 2, 3, 4))]
    write_records([DetectionRecord([f"{k:02}.jpg"], 9, 9, objects) for k in range(30)], tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:10], "", *lines[10:]]))
    return tmp_path / "a.jsonl"


def names(path):
    return [record.images[0] for record in read_records(path)]


def test_deterministic_distinct_and_in_order(data, tmp_path):
    first = names(sample_records(data, 8, tmp_path / "x.jsonl", show_progress=False))
    assert len(set(first)) == 8 and first == sorted(first)
    assert names(sample_records(data, 8, tmp_path / "y.jsonl", show_progress=False)) == first
    assert names(sample_records(data, 8, tmp_path / "z.jsonl", seed=1, show_progress=False)) != first


def test_default_names(data, tmp_path):
    assert sample_records(data, 3, show_progress=False) == tmp_path / "a_sample.jsonl"
    data.rename(tmp_path / "a.coord.jsonl")
    assert sample_records(tmp_path / "a.coord.jsonl", 3, show_progress=False) == tmp_path / "a_sample.coord.jsonl"


def test_records_are_whole(data, tmp_path):
    before = {record.images: record for record in read_records(data)}
    out = sample_records(data, 30, tmp_path / "x.jsonl", show_progress=False)
    assert {record.images: record for record in read_records(out)} == before


def test_every_record_is_as_likely(data, tmp_path):
    counts = Counter()
    for seed in range(600):
        counts.update(names(sample_records(data, 5, tmp_path / "x.jsonl", seed=seed, show_progress=False)))
    assert len(counts) == 30 and 60 < min(counts.values()) and max(counts.values()) < 140  # 100 expected


def test_more_than_there_are(data, tmp_path):
    with pytest.raises(ValueError, match="num = 31: .*has only 30 records"):
        sample_records(data, 31, tmp_path / "x.jsonl", show_progress=False)
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("num", [0, -1])
def test_bad_num(data, num):
    with pytest.raises(ValueError, match=f"num = {num}: must be at least 1"):
        sample_records(data, num)


def test_never_the_input(data):
    with pytest.raises(ValueError, match="is the file that is read"):
        sample_records(data, 3, data)


def test_a_drawn_record_is_checked(data, tmp_path):
    data.write_text(data.read_text().replace('"width": 9', '"width": 0', 1))
    with pytest.raises(RecordError, match="a.jsonl:1: width = 0"):
        sample_records(data, 30, tmp_path / "x.jsonl", show_progress=False)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match="has only 0 records"):
        sample_records(tmp_path / "a.jsonl", 1, show_progress=False)


def test_image_paths_stay_right(data, tmp_path):
    (tmp_path / "x").mkdir()
    moved = data.rename(tmp_path / "x" / "a.jsonl")
    below = sample_records(moved, 30, tmp_path / "b.jsonl", show_progress=False)
    beside = sample_records(moved, 30, tmp_path / "y" / "b.jsonl", show_progress=False)
    rooted = sample_records(moved, 30, tmp_path / "c.jsonl", image_root=tmp_path / "photos", show_progress=False)
    assert names(below)[0] == "x/00.jpg"
    assert names(beside)[0] == str(tmp_path / "x" / "00.jpg")
    assert names(rooted)[0] == "photos/00.jpg"

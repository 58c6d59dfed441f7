# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.tokens."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.tokens import convert_tokens, to_bins, to_pixels
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError, read_records, write_records

NUM_BINS = st.sampled_from([2, 100, 1000, 4096])
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
RECORDS = [
    DetectionRecord(["a.jpg"], 640, 480, [DetectionObject("cat", (0, 120, 320, 480))], summary="s"),
    DetectionRecord(["sub/b.jpg"], 50, 40, []),
    DetectionRecord(["c.jpg"], 50, 40, [DetectionObject("x", poly=(0, 0, 25, 0, 50, 40))], metadata={"id": 3}),
]


def error_in_bins(first, second, size, num_bins):
    points = np.subtract(first, second).reshape(-1, 2)
    return np.abs(points / size * (num_bins - 1)).max()


class TestObjects:
    @given(st.data(), SIZES, NUM_BINS)
    def test_pixels_come_back_within_half_a_bin(self, draw, size, num_bins):
        grid = CoordinateGrid(num_bins)
        axes = [sorted(draw.draw(st.tuples(*[st.floats(0, side)] * 2))) for side in size]
        box = (axes[0][0], axes[1][0], axes[0][1], axes[1][1])
        item = DetectionObject("a", bbox_2d=box)
        bins = to_bins(item, *size, grid)
        assert bins.bins[0] < bins.bins[2] and bins.bins[1] < bins.bins[3]
        sides = np.divide([box[2] - box[0], box[3] - box[1]], size) * (num_bins - 1)
        if (sides > 1).all():  # narrower boxes are widened
            assert error_in_bins(to_pixels(bins, *size, grid).bbox_2d, box, size, num_bins) <= 0.5 + 1e-9

    @given(st.data(), SIZES, NUM_BINS)
    def test_bins_come_back_exactly(self, draw, size, num_bins):
        grid = CoordinateGrid(num_bins)
        axes = [
            sorted(draw.draw(st.lists(st.integers(0, num_bins - 1), min_size=2, max_size=2, unique=True)))
            for _ in "xy"
        ]
        item = DetectionObject("a", bins=(axes[0][0], axes[1][0], axes[0][1], axes[1][1]))
        pixels = to_pixels(item, *size, grid)
        assert pixels.bins is None and pixels.bbox_2d is not None
        assert to_bins(pixels, *size, grid) == item

    @given(st.data(), SIZES, NUM_BINS)
    def test_polygons(self, draw, size, num_bins):
        grid = CoordinateGrid(num_bins)
        points = draw.draw(st.lists(st.tuples(*(st.floats(0, side) for side in size)), min_size=3, max_size=12))
        item = DetectionObject("a", poly=[value for point in points for value in point])
        bins = to_bins(item, *size, grid)
        assert len(bins.bins) == len(item.poly)
        xs, ys = bins.bins[::2], bins.bins[1::2]
        assert min(xs) < max(xs) and min(ys) < max(ys)
        pixels = to_pixels(bins, *size, grid)
        assert to_bins(pixels, *size, grid) == bins
        spans = np.ptp(points, axis=0) / size * (num_bins - 1)
        bound = 0.5 if (spans > 1).all() else 1.5  # one vertex of a flat polygon moves by a bin
        assert error_in_bins(pixels.poly, item.poly, size, num_bins) <= bound + 1e-9

    def test_the_grid_decides(self):
        item = DetectionObject("a", bbox_2d=(0, 120, 320, 480))
        assert to_bins(item, 640, 480, CoordinateGrid()).bins == (0, 250, 500, 999)
        assert to_bins(item, 640, 480, CoordinateGrid(101)).bins == (0, 25, 50, 100)


class TestFiles:
    def test_there_and_back(self, tmp_path):
        write_records(RECORDS, tmp_path / "a.jsonl")
        out, report = convert_tokens(tmp_path / "a.jsonl", show_progress=False)
        assert out == tmp_path / "a.coord.jsonl"
        assert report.rows() == [("images", 3), ("objects in", 2), ("objects out", 2)]
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        tokens = [f"<|coord_{k}|>" for k in (0, 250, 500, 999)]
        assert lines[0]["objects"] == [{"desc": "cat", "bbox_2d": tokens}] and lines[0]["summary"] == "s"
        assert lines[1] == {"images": ["sub/b.jpg"], "width": 50, "height": 40, "objects": []}
        assert lines[2]["metadata"] == {"id": 3} and len(lines[2]["objects"][0]["poly"]) == 6
        back, _ = convert_tokens(out, inverse=True, show_progress=False)
        assert back == tmp_path / "a.pixels.jsonl"
        for before, after in zip(RECORDS, read_records(back), strict=True):
            assert (before.images, before.metadata) == (after.images, after.metadata)
            for first, second in zip(before.objects, after.objects, strict=True):
                size = (before.width, before.height)
                assert error_in_bins(first.bbox_2d or first.poly, second.bbox_2d or second.poly, size, 1000) < 0.501
        again, _ = convert_tokens(back, tmp_path / "again.jsonl", show_progress=False)
        assert again.read_bytes() == out.read_bytes()

    def test_num_bins(self, tmp_path):
        write_records(RECORDS[:1], tmp_path / "a.jsonl")
        out, _ = convert_tokens(tmp_path / "a.jsonl", num_bins=2000, show_progress=False)
        assert "<|coord_1999|>" in out.read_text()
        with pytest.raises(RecordError, match=r"a.coord.jsonl:1: .*outside the bins 0..999"):
            convert_tokens(out, inverse=True, show_progress=False)
        convert_tokens(out, inverse=True, num_bins=2000, show_progress=False)

    @pytest.mark.parametrize(("inverse", "remedy"), [(False, "Use --inverse"), (True, "Leave out --inverse")])
    def test_nothing_is_converted_twice(self, tmp_path, inverse, remedy):
        items = [DetectionObject("a", bins=(1, 2, 3, 4)), DetectionObject("a", bbox_2d=(1, 2, 3, 4))]
        records = [RECORDS[1], DetectionRecord(["d.jpg"], 9, 9, [items[inverse]])]
        write_records(records, tmp_path / "a.jsonl")
        with pytest.raises(RecordError, match=rf"a.jsonl:2: the objects already are in .*{remedy}"):
            convert_tokens(tmp_path / "a.jsonl", inverse=inverse, show_progress=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]

    def test_never_the_input(self, tmp_path):
        write_records(RECORDS, tmp_path / "a.jsonl")
        with pytest.raises(ValueError, match="is the file that is read"):
            convert_tokens(tmp_path / "a.jsonl", tmp_path / "." / "a.jsonl")
        with pytest.raises(ValueError, match="is a folder"):
            convert_tokens(tmp_path / "a.jsonl", tmp_path)

    def test_another_folder(self, tmp_path):
        (tmp_path / "sub").mkdir()
        write_records(RECORDS, tmp_path / "sub" / "a.jsonl")
        up, _ = convert_tokens(tmp_path / "sub" / "a.jsonl", tmp_path / "up.jsonl", show_progress=False)
        aside, _ = convert_tokens(tmp_path / "sub" / "a.jsonl", tmp_path / "x" / "a.jsonl", show_progress=False)
        assert [record.images[0] for record in read_records(up)] == ["sub/a.jpg", "sub/sub/b.jpg", "sub/c.jpg"]
        assert read_records(aside)[1].images[0] == str(tmp_path / "sub" / "sub" / "b.jpg")

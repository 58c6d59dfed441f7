# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.coordinates."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from coordexp_trl.coordinates import WILDCARD_TOKEN, CoordinateGrid, CoordVocabulary, parse_coord_token

GRID = CoordinateGrid()
sides = st.integers(1, 20000)
units = st.floats(0, 1, allow_nan=False)


def make_tokenizer(tokens, unk_token=None):
    vocab = {character: index for index, character in enumerate("<|coord_0123456789*>")}
    if unk_token:
        vocab[unk_token] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=unk_token))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unk_token)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


def coord_tokens(num_bins=1000):
    return [f"<|coord_{k}|>" for k in range(num_bins)]


class TestCoordinateGrid:
    @pytest.mark.parametrize(
        ("box", "width", "height", "expected"),
        [
            ([0, 0, 640, 480], 640, 480, [0, 0, 999, 999]),  # the whole image: its right border is the last bin
            ([0, 120, 320, 480], 640, 480, [0, 250, 500, 999]),  # 0.25 and 0.5 of 999 are rounded to the nearest bin
            ([-5, -5, 650, 490], 640, 480, [0, 0, 999, 999]),  # clipped to the image
            ([0, 0, 0, 0], 640, 480, [0, 0, 1, 1]),  # a point at the origin grows inwards
            ([640, 480, 640, 480], 640, 480, [998, 998, 999, 999]),  # a point at the far corner grows inwards
            ([700, 500, 800, 600], 640, 480, [998, 998, 999, 999]),  # wholly outside
            ([499, 499, 499, 499], 999, 999, [499, 499, 500, 500]),  # left of the centre: grows to the right
            ([500, 500, 500, 500], 999, 999, [499, 499, 500, 500]),  # right of the centre: grows to the left
            ([100.2, 0, 100.4, 999], 999, 999, [100, 0, 101, 999]),  # only the collapsed axis grows
        ],
    )
    def test_pixels_to_bins(self, box, width, height, expected):
        assert GRID.pixels_to_bins([box], width, height).tolist() == [expected]

    def test_other_number_of_bins(self):
        assert CoordinateGrid(2).pixels_to_bins([[10, 10, 12, 12]], 100, 100).tolist() == [[0, 0, 1, 1]]
        assert CoordinateGrid(101).pixels_to_bins([[0, 25, 50, 100]], 100, 100).tolist() == [[0, 25, 50, 100]]

    @settings(deadline=None)
    @given(st.lists(st.tuples(units, units, units, units), max_size=20), sides, sides)
    def test_round_trip_within_half_a_bin_and_never_collapsed(self, unit_boxes, width, height):
        unit = np.array(unit_boxes).reshape(-1, 4)
        boxes = np.concatenate([np.minimum(unit[:, :2], unit[:, 2:]), np.maximum(unit[:, :2], unit[:, 2:])], axis=1)
        boxes *= [width, height, width, height]
        bins = GRID.pixels_to_bins(boxes, width, height)
        assert bins.dtype == np.int64 and bins.shape == boxes.shape
        assert ((bins >= 0) & (bins <= 999)).all()
        assert (bins[:, 2:] > bins[:, :2]).all()
        error = np.abs(GRID.bins_to_pixels(bins, width, height) - boxes) * 999 / [width, height, width, height]
        grown = np.tile((boxes[:, 2:] - boxes[:, :2]) * 999 < [width, height], 2)
        assert (error[~grown] <= 0.5 + 1e-6).all()
        assert (error <= 1.5 + 1e-6).all()

    @settings(deadline=None)
    @given(sides, sides, st.integers(2, 2000))
    def test_every_bin_survives_the_way_to_pixels_and_back(self, width, height, num_bins):
        grid = CoordinateGrid(num_bins)
        low = np.arange(num_bins - 1)
        bins = np.stack([low, low, low + 1, np.full_like(low, num_bins - 1)], axis=1)
        assert (grid.pixels_to_bins(grid.bins_to_pixels(bins, width, height), width, height) == bins).all()
        tensor = torch.from_numpy(bins)
        assert torch.equal(grid.pixels_to_bins(grid.bins_to_pixels(tensor, width, height), width, height), tensor)

    @settings(deadline=None)
    @given(st.lists(st.floats(-100, 2000), min_size=2, max_size=50), sides)
    def test_points_are_monotone(self, xs, width):
        xs = np.sort(xs)
        bins = GRID.points_to_bins(np.stack([xs, xs], axis=1), width, 100)
        assert (np.diff(bins, axis=0) >= 0).all()

    def test_points_round_trip(self):
        bins = np.array([[0, 999], [500, 3], [7, 7]])
        points = GRID.bins_to_points(bins, 640, 480)
        assert points[0].tolist() == [0, 480]
        assert (GRID.points_to_bins(points, 640, 480) == bins).all()

    @pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
    def test_tensors_give_tensors(self, kind):
        boxes = torch.tensor([[0, 120, 320, 480]], dtype=kind, requires_grad=kind.is_floating_point)
        bins = GRID.pixels_to_bins(boxes, 640, 480)
        assert bins.dtype == torch.int64 and bins.tolist() == [[0, 250, 500, 999]]
        assert GRID.bins_to_pixels(bins, 640, 480).dtype == torch.float32
        assert GRID.bins_to_unit(bins).dtype == torch.float32
        expected = torch.float64 if kind == torch.float64 else torch.float32
        assert GRID.pixels_to_unit(boxes, 640, 480).dtype == expected

    def test_input_is_not_changed(self):
        boxes = np.array([[-5.0, 0, 0, 2000]])
        GRID.pixels_to_bins(boxes, 640, 480)
        assert boxes.tolist() == [[-5, 0, 0, 2000]]

    @pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), torch.zeros(0, 4)])
    def test_empty(self, empty):
        for result in (GRID.pixels_to_bins(empty, 640, 480), GRID.bins_to_pixels(empty, 640, 480)):
            assert tuple(result.shape) == (0, 4)
            assert isinstance(result, torch.Tensor) == isinstance(empty, torch.Tensor)

    def test_values_are_those_of_bins(self):
        values = GRID.values()
        assert values.shape == (1000,) and values.dtype == torch.float32
        assert values[0] == 0 and values[999] == 1 and values[500].item() == pytest.approx(500 / 999, abs=1e-7)
        assert torch.equal(GRID.bins_to_unit(torch.arange(1000)), values)
        assert (GRID.bins_to_unit([[0, 999, 999, 0]]) == [[0, 1, 1, 0]]).all()

    def test_pixels_to_unit_is_exact_and_clipped(self):
        unit = GRID.pixels_to_unit([[1, -1, 3, 5]], 3, 4)
        assert unit.tolist() == [[1 / 3, 0.0, 1.0, 1.0]]

    def test_widen_collapsed(self):
        bins = [[5, 5, 5, 9], [999, 0, 999, 0], [1, 2, 3, 4]]
        assert GRID.widen_collapsed(bins).tolist() == [[5, 5, 6, 9], [998, 0, 999, 1], [1, 2, 3, 4]]

    @pytest.mark.parametrize(
        ("boxes", "width", "height", "parts"),
        [
            ([[0, 0, 1]], 10, 10, ["boxes_px", "(N, 4)", "(1, 3)"]),  # three columns
            ([0, 0, 1, 1], 10, 10, ["boxes_px", "(N, 4)"]),  # one box that is not in a list
            ([[0, 0, 1, 1], [0, 0]], 10, 10, ["boxes_px", "differ in length"]),  # ragged
            ([["<|coord_1|>"] * 4], 10, 10, ["boxes_px", "real numbers"]),  # tokens are not pixels
            ([[True, False, True, True]], 10, 10, ["boxes_px", "real numbers"]),  # truth values are not pixels
            ([[0, 0, 1, 1], [0, float("nan"), 1, 1]], 10, 10, ["boxes_px[1, 1]", "nan", "finite"]),  # not finite
            ([[0, 0, float("inf"), 1]], 10, 10, ["boxes_px[0, 2]", "inf", "finite"]),  # not finite
            ([[0, 0, 1, 1], [8, 2, 3, 4]], 10, 10, ["boxes_px[1]", "8.0", "inverted", "xywh"]),  # x2 < x1
            ([[0, 0, 1, 1]], 0, 10, ["width = 0", "positive"]),  # an image without width
            ([[0, 0, 1, 1]], 10, -3, ["height = -3", "positive"]),  # an image of negative height
            ([[0, 0, 1, 1]], 10, float("nan"), ["height = nan", "positive"]),  # not finite
            ([[0, 0, 1, 1]], "640", 10, ["width = '640'", "positive"]),  # text
            ([[0, 0, 1, 1]], True, 10, ["width = True", "positive"]),  # a truth value
        ],
    )
    def test_bad_pixels(self, boxes, width, height, parts):
        with pytest.raises(ValueError) as error:
            GRID.pixels_to_bins(boxes, width, height)
        for part in parts:
            assert part in str(error.value)

    @pytest.mark.parametrize("value", [-1, 1000, 151670, 12.5, float("nan")])
    def test_bad_bins(self, value):
        for call in (
            lambda bins: GRID.bins_to_pixels(bins, 640, 480),
            lambda bins: GRID.bins_to_unit(bins),
            lambda bins: GRID.widen_collapsed(bins),
        ):
            with pytest.raises(ValueError, match=r"bins\[1, 2\] = "):
                call([[0, 0, 1, 1], [0, 0, value, 1]])

    @pytest.mark.parametrize("num_bins", [1, 0, -5, 10.0, True, "1000"])
    def test_bad_num_bins(self, num_bins):
        with pytest.raises(ValueError, match="num_bins"):
            CoordinateGrid(num_bins)


class TestTokens:
    def test_token(self):
        assert GRID.token(0) == "<|coord_0|>" and GRID.token(999) == "<|coord_999|>"
        for k in (-1, 1000):
            with pytest.raises(ValueError, match="0..999"):
                GRID.token(k)

    @given(st.integers(0, 10**9 - 1))
    def test_parse(self, k):
        assert parse_coord_token(f"<|coord_{k}|>") == k

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "12",
            "<|coord_|>",
            "<|coord_*|>",
            "<|coord_007|>",  # leading zeros
            "<|coord_+7|>",  # signs
            "<|coord_-7|>",
            "<|coord_7.0|>",
            "<|coord_٣|>",  # a digit, but not an ASCII one
            " <|coord_7|>",
            "<|coord_7|>\n",
            "<|coord_7|><|coord_7|>",
            "<|coord_" + "9" * 5000 + "|>",  # more digits than int() accepts
        ],
    )
    def test_parse_is_strict(self, text):
        assert parse_coord_token(text) is None


class TestCoordVocabulary:
    def test_from_tokenizer(self):
        vocabulary = CoordVocabulary.from_tokenizer(make_tokenizer([WILDCARD_TOKEN, *coord_tokens()]))
        start = vocabulary.contiguous_start
        assert vocabulary.wildcard_id == start - 1
        assert vocabulary.num_bins == 1000
        assert vocabulary.ids.dtype == torch.long
        assert vocabulary.ids.tolist() == list(range(start, start + 1000))
        assert [vocabulary.to_bin(token_id) for token_id in vocabulary.ids] == list(range(1000))
        for token_id in (0, -1, start - 1, start + 1000, 10**30):
            assert vocabulary.to_bin(token_id) is None

    def test_ids_that_are_not_contiguous(self):
        tokens = coord_tokens(10)
        vocabulary = CoordVocabulary.from_tokenizer(make_tokenizer(tokens[::-1]), num_bins=10)
        assert vocabulary.contiguous_start is None and vocabulary.wildcard_id is None
        assert [vocabulary.to_bin(token_id) for token_id in vocabulary.ids.tolist()] == list(range(10))
        assert vocabulary.ids[0] == vocabulary.ids[9] + 9

    @pytest.mark.parametrize("unk_token", [None, "<unk>"])
    @pytest.mark.parametrize(
        ("tokens", "count", "first"),
        [
            ([], 1000, "<|coord_0|>"),  # a base checkpoint
            (coord_tokens(999), 1, "<|coord_999|>"),  # one short
            (coord_tokens()[:7] + coord_tokens()[9:], 2, "<|coord_7|>"),  # a hole
        ],
    )
    def test_missing_tokens(self, tokens, count, first, unk_token):
        tokenizer = make_tokenizer(tokens, unk_token)
        for name, source in (("", "DIR"), ("org/model", "org/model")):
            tokenizer.name_or_path = name
            with pytest.raises(ValueError) as error:
                CoordVocabulary.from_tokenizer(tokenizer)
            message = str(error.value)
            assert f"{count} of the 1000" in message and repr(first) in message
            assert f"coordexp expand-vocab --src {source} --dst DIR" in message

    def test_token_that_becomes_the_unknown_token(self):
        tokenizer = make_tokenizer(coord_tokens(9), "<unk>")
        tokenizer.backend_tokenizer.pre_tokenizer = None
        tokenizer.backend_tokenizer.model = models.WordLevel({"<unk>": 0}, unk_token="<unk>")
        assert tokenizer("<|coord_9|>")["input_ids"] == [0]
        with pytest.raises(ValueError, match="1 of the 10 .*--num-bins 10"):
            CoordVocabulary.from_tokenizer(tokenizer, num_bins=10)

    def test_is_fast(self):
        tokenizer = make_tokenizer(coord_tokens())
        start = time.process_time()
        CoordVocabulary.from_tokenizer(tokenizer)
        assert time.process_time() - start < 2

    @pytest.mark.parametrize("ids", [[], [5], [5, 6, 5]])
    def test_bad_ids(self, ids):
        with pytest.raises(ValueError, match="distinct"):
            CoordVocabulary(ids)

    def test_check_embedding_rows(self):
        vocabulary = CoordVocabulary(range(100, 200))
        vocabulary.check_embedding_rows(200, 200)
        vocabulary.check_embedding_rows(256, 200)
        with pytest.raises(ValueError, match=r"id 199 \(bin 99\).*199 rows.*expand-vocab"):
            vocabulary.check_embedding_rows(199, 199)
        with pytest.raises(ValueError, match=r"len\(tokenizer\) = 300 .*256 rows.*expand-vocab"):
            vocabulary.check_embedding_rows(256, 300)

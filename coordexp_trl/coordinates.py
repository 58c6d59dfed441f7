# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Coordinates: the one place that knows how pixels, unit coordinates, bins and coordinate tokens relate.

Bin `k` of `K` stands for the unit coordinate `phi(k) = k / (K - 1)`, and for the pixel edge `x = phi * width` or
`y = phi * height`. Edges are continuous: `x = 0` is the left border of the image (bin 0) and `x = width` its right
border (bin `K - 1`). Boxes are xyxy throughout.
"""

import numbers
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ArrayLike = np.ndarray | torch.Tensor | Sequence[Sequence[float]]

COORD_TOKEN = "<|coord_{}|>"
WILDCARD_TOKEN = "<|coord_*|>"

# At most nine digits: no grid is larger, and `int` refuses strings of thousands of digits.
_COORD_PATTERN = re.compile(r"<\|coord_(0|[1-9][0-9]{0,8})\|>")


def parse_coord_token(token: str) -> int | None:
    """
    Returns the bin that a coordinate token names.

    Args:
        token (`str`):
            Exact token text. Leading zeros, signs and surrounding spaces are not coordinate tokens.

    Returns:
        `int` or `None`: the bin, not checked against any grid, or `None` if `token` is not a coordinate token.

    Example:

    ```python
    >>> parse_coord_token("<|coord_110|>")
    110
    >>> parse_coord_token("<|coord_007|>") is None
    True
    ```
    """
    found = _COORD_PATTERN.fullmatch(token)
    return int(found[1]) if found else None


def shorten(value: object, limit: int = 80) -> str:
    """Returns the `repr` of a value on one line of at most `limit` characters, for error messages."""
    text = " ".join(part.strip() for part in repr(value).splitlines())
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class CoordinateGrid:
    """
    The quantisation of an image into `num_bins` bins per axis.

    Every method takes a list, a `numpy.ndarray` or a `torch.Tensor`; tensors give tensors on the same device, anything
    else gives numpy arrays. Computation is in float64.

    Args:
        num_bins (`int`, *optional*, defaults to `1000`):
            Number of bins `K` per axis, at least 2.

    Raises:
        `ValueError`: if `num_bins` is not an integer of at least 2.

    Example:

    ```python
    >>> grid = CoordinateGrid()
    >>> grid.pixels_to_bins([[0, 120, 320, 480]], width=640, height=480)
    array([[  0, 250, 500, 999]])
    ```
    """

    num_bins: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.num_bins, numbers.Integral) or isinstance(self.num_bins, bool) or self.num_bins < 2:
            raise ValueError(f"num_bins = {self.num_bins!r}: must be an integer of at least 2.")

    def values(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Returns `phi`, the unit coordinate of every bin, a float32 tensor of shape `(K,)`."""
        return (torch.arange(self.num_bins, dtype=torch.float64) / (self.num_bins - 1)).float().to(device)

    def token(self, k: int) -> str:
        """Returns the coordinate token of bin `k`; raises `ValueError` outside `0..K-1`."""
        if not 0 <= k < self.num_bins:
            raise ValueError(f"k = {k!r}: must be a bin in 0..{self.num_bins - 1}.")
        return COORD_TOKEN.format(k)

    def pixels_to_bins(self, boxes_px: ArrayLike, width: float, height: float) -> np.ndarray | torch.Tensor:
        """
        Quantises pixel boxes to their nearest bins.

        Boxes are clipped to the image. A box never collapses: a side shorter than one bin is widened to one bin, away
        from the nearer border.

        Args:
            boxes_px (`list`, `numpy.ndarray` or `torch.Tensor`):
                Boxes of shape `(N, 4)`, xyxy, in pixels.
            width (`float`):
                Width of the image in pixels.
            height (`float`):
                Height of the image in pixels.

        Returns:
            `numpy.ndarray` or `torch.Tensor`: int64 bins of shape `(N, 4)`.

        Raises:
            `ValueError`: if the shape is wrong, a value is not finite, corners are inverted, or the image has no area.
        """
        boxes = _numbers("boxes_px", boxes_px, columns=4)
        inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
        if inverted.any():
            row = int(inverted.argmax())
            raise ValueError(
                f"boxes_px[{row}] = {boxes[row].tolist()}: corners are inverted, need x2 >= x1 and y2 >= y1. "
                "Boxes are xyxy; convert xywh boxes with x2 = x + w, y2 = y + h."
            )
        return _like(self._widen(self._quantize(boxes, width, height)), boxes_px)

    def points_to_bins(self, points_px: ArrayLike, width: float, height: float) -> np.ndarray | torch.Tensor:
        """Quantises pixel points of shape `(N, 2)`, such as the vertices of a polygon, to int64 bins `(N, 2)`."""
        return _like(self._quantize(_numbers("points_px", points_px, columns=2), width, height), points_px)

    def pixels_to_unit(self, boxes_px: ArrayLike, width: float, height: float) -> np.ndarray | torch.Tensor:
        """
        Scales pixel boxes of shape `(N, 4)` to `[0, 1]`, clipped to the image and not quantised.

        Corners keep their order, so an inverted box stays inverted. Tensors give float32, or float64 for float64.
        """
        return _like(_scale(_numbers("boxes_px", boxes_px, columns=4), width, height), boxes_px)

    def bins_to_unit(self, bins: ArrayLike) -> np.ndarray | torch.Tensor:
        """
        Returns the unit coordinates of bins of any shape.

        Raises:
            `ValueError`: if a value is not an integer in `0..K-1`.
        """
        return _like(self._checked(_numbers("bins", bins)) / (self.num_bins - 1), bins)

    def bins_to_pixels(self, bins: ArrayLike, width: float, height: float) -> np.ndarray | torch.Tensor:
        """
        Returns the pixel boxes of bins: the inverse of [`CoordinateGrid.pixels_to_bins`] within half a bin.

        Args:
            bins (`list`, `numpy.ndarray` or `torch.Tensor`):
                Bins of shape `(N, 4)`, xyxy; inverted and collapsed boxes are converted as they are.
            width (`float`):
                Width of the image in pixels.
            height (`float`):
                Height of the image in pixels.

        Returns:
            `numpy.ndarray` (float64) or `torch.Tensor` (float32): boxes of shape `(N, 4)` in pixels.

        Raises:
            `ValueError`: if the shape is wrong, a value is not an integer in `0..K-1`, or the image has no area.
        """
        unit = self._checked(_numbers("bins", bins, columns=4)) / (self.num_bins - 1)
        return _like(unit * _image_size(width, height, columns=4), bins)

    def bins_to_points(self, bins: ArrayLike, width: float, height: float) -> np.ndarray | torch.Tensor:
        """Returns the pixel points of bins of shape `(N, 2)`: the inverse of [`CoordinateGrid.points_to_bins`]."""
        unit = self._checked(_numbers("bins", bins, columns=2)) / (self.num_bins - 1)
        return _like(unit * _image_size(width, height, columns=2), bins)

    def widen_collapsed(self, bins: ArrayLike) -> np.ndarray | torch.Tensor:
        """Widens the collapsed sides of ordered boxes in bins, `(N, 4)`, to one bin, away from the nearer border."""
        return _like(self._widen(self._checked(_numbers("bins", bins, columns=4)).astype(np.int64)), bins)

    def _quantize(self, pixels: np.ndarray, width: float, height: float) -> np.ndarray:
        return np.rint(_scale(pixels, width, height) * (self.num_bins - 1)).astype(np.int64)

    def _widen(self, bins: np.ndarray) -> np.ndarray:
        low, high = bins[:, :2], bins[:, 2:]
        collapsed = high <= low
        near_origin = 2 * low < self.num_bins - 1
        return np.concatenate([low - (collapsed & ~near_origin), high + (collapsed & near_origin)], axis=1)

    def _checked(self, bins: np.ndarray) -> np.ndarray:
        wrong = (bins < 0) | (bins > self.num_bins - 1) | (bins != np.rint(bins))
        if wrong.any():
            place = tuple(map(int, np.argwhere(wrong)[0]))
            raise ValueError(
                f"bins{list(place)} = {bins[place]:g}: must be an integer in 0..{self.num_bins - 1}. "
                "Convert pixels with pixels_to_bins, and token ids with CoordVocabulary.to_bin."
            )
        return bins


def _numbers(name: str, values: ArrayLike, columns: int | None = None) -> np.ndarray:
    """Returns finite float64 numbers, of shape `(N, columns)` if `columns` is given."""
    if isinstance(values, torch.Tensor):
        array = values.detach().to("cpu", torch.float64 if values.is_floating_point() else None).numpy()
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{name} = {shorten(values)}: rows differ in length.") from error
    if array.size == 0 and array.ndim == 1 and columns is not None:  # an empty list carries no columns
        array = array.reshape(0, columns)
    if array.size and array.dtype.kind not in "iuf":
        raise ValueError(f"{name} = {shorten(values)}: must hold real numbers, got dtype {array.dtype}.")
    if columns is not None and (array.ndim != 2 or array.shape[1] != columns):
        raise ValueError(f"{name} = {shorten(values)}: must have shape (N, {columns}), got {array.shape}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        raise ValueError(f"{name}{list(place)} = {array[place]}: must be finite.")
    return array


def _image_size(width: float, height: float, columns: int) -> np.ndarray:
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < float("inf"):
            raise ValueError(f"{name} = {value!r}: must be a positive number of pixels.")
    return np.array([width, height] * (columns // 2), dtype=np.float64)


def _scale(pixels: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.clip(pixels / _image_size(width, height, columns=pixels.shape[1]), 0.0, 1.0)


def _like(result: np.ndarray, source: ArrayLike) -> np.ndarray | torch.Tensor:
    """Returns `result` in the kind of `source`; float tensors are float32 unless `source` is float64."""
    if not isinstance(source, torch.Tensor):
        return result
    tensor = torch.from_numpy(np.ascontiguousarray(result)).to(source.device)
    return tensor.float() if tensor.is_floating_point() and source.dtype != torch.float64 else tensor


class CoordVocabulary:
    """
    The token ids of the coordinate tokens of one tokenizer.

    Args:
        ids (`Sequence[int]`):
            Token id of every bin, distinct; bin `k` is at index `k`.
        wildcard_id (`int`, *optional*):
            Token id of the wildcard token `<|coord_*|>`.

    Attributes:
        ids (`torch.Tensor`):
            int64 tensor of shape `(K,)`, bin to token id.
        num_bins (`int`):
            Number of bins `K`.
        contiguous_start (`int` or `None`):
            The first id if the ids are consecutive and ascending (Qwen3-VL: 151670), else `None`.
    """

    def __init__(self, ids: Sequence[int], wildcard_id: int | None = None) -> None:
        ids = [operator.index(token_id) for token_id in ids]
        self._bins = {token_id: k for k, token_id in enumerate(ids)}
        if len(ids) < 2 or len(self._bins) != len(ids):
            raise ValueError(f"ids: need at least 2 distinct token ids, got {len(self._bins)} among {len(ids)}.")
        self.ids = torch.tensor(ids, dtype=torch.long)
        self.num_bins = len(ids)
        self.wildcard_id = wildcard_id
        self.contiguous_start = ids[0] if ids == list(range(ids[0], ids[0] + len(ids))) else None

    def to_bin(self, token_id: int) -> int | None:
        """Returns the bin of a token id, or `None` if the id is not a coordinate token."""
        return self._bins.get(operator.index(token_id))

    @classmethod
    def from_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase", num_bins: int = 1000) -> "CoordVocabulary":
        """
        Reads the coordinate tokens of a tokenizer.

        Args:
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                A tokenizer in which each of `<|coord_0|>` … `<|coord_{num_bins-1}|>` is one token.
            num_bins (`int`, *optional*, defaults to `1000`):
                Number of bins.

        Returns:
            [`CoordVocabulary`]

        Raises:
            `ValueError`: if a coordinate token is missing, is split into several tokens, or shares its id.
        """
        grid = CoordinateGrid(num_bins)
        tokens = [grid.token(k) for k in range(num_bins)] + [WILDCARD_TOKEN]
        encoded = tokenizer(tokens, add_special_tokens=False)["input_ids"]
        first_ids = [ids[0] if len(ids) == 1 else None for ids in encoded]
        # An unknown-token id is also a single id, so the way back must give the token itself.
        back = iter(tokenizer.convert_ids_to_tokens([token_id for token_id in first_ids if token_id is not None]))
        ids = [
            token_id if token_id is not None and next(back) == token else None
            for token, token_id in zip(tokens, first_ids, strict=True)
        ]
        missing = [token for token, token_id in zip(tokens[:-1], ids, strict=False) if token_id is None]
        if missing:
            option = "" if num_bins == 1000 else f" --num-bins {num_bins}"
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r}: {len(missing)} of the {num_bins} coordinate tokens are "
                f"missing (not one token each), the first is {missing[0]!r}. Add them with "
                f"`coordexp expand-vocab --src {tokenizer.name_or_path or 'DIR'} --dst DIR{option}`."
            )
        return cls(ids[:-1], wildcard_id=ids[-1])

    def check_embedding_rows(self, num_rows: int, tokenizer_length: int) -> None:
        """
        Checks that every coordinate token has an embedding row of its own.

        Args:
            num_rows (`int`):
                Rows of the input embedding matrix of the model.
            tokenizer_length (`int`):
                `len(tokenizer)`.

        Raises:
            `ValueError`: if a coordinate id, or the tokenizer, reaches beyond the embedding matrix.
        """
        remedy = (
            "Such ids have no row of their own: they fail or alias the rows of other tokens. Load the model and the "
            "tokenizer from the same checkpoint, or make one with `coordexp expand-vocab --src DIR --dst DIR`."
        )
        highest = int(self.ids.max())
        if highest >= num_rows:
            raise ValueError(
                f"coordinate token id {highest} (bin {self._bins[highest]}) is outside the embedding matrix of "
                f"{num_rows} rows. {remedy}"
            )
        if tokenizer_length > num_rows:
            raise ValueError(
                f"len(tokenizer) = {tokenizer_length} is larger than the embedding matrix of {num_rows} rows. {remedy}"
            )

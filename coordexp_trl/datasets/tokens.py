# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rewrites the geometry of a file from pixels to coordinate tokens, and back."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.relocation import check_out, relocate
from coordexp_trl.datasets.rounding import interleave, spread
from coordexp_trl.records import (
    DEFAULT_GRID,
    DetectionObject,
    DetectionRecord,
    RecordError,
    iter_records,
    write_records,
)

TOKEN_SUFFIX = ".coord.jsonl"
PIXEL_SUFFIX = ".pixels.jsonl"


def to_bins(item: DetectionObject, width: int, height: int, grid: CoordinateGrid) -> DetectionObject:
    """
    Quantises an object in pixels to the nearest bins.

    Args:
        item ([`DetectionObject`]):
            The object, in pixels.
        width (`int`), height (`int`):
            Size of the image in pixels.
        grid ([`CoordinateGrid`]):
            The grid.

    Returns:
        [`DetectionObject`]: the object in bins. Neither a box nor the box around a polygon collapses; a polygon keeps
        its vertices.
    """
    if item.bbox_2d is not None:
        return DetectionObject(item.desc, bins=item.box_bins(width, height, grid))
    exact = np.reshape(item.poly, (-1, 2))
    axes = zip(grid.points_to_bins(exact, width, height).T.tolist(), exact.T.tolist(), strict=True)
    return DetectionObject(item.desc, bins=interleave(*(spread(bins, px, grid.num_bins - 1) for bins, px in axes)))


def to_pixels(item: DetectionObject, width: int, height: int, grid: CoordinateGrid) -> DetectionObject:
    """
    Returns the pixels that the bins of an object stand for, not rounded: their bins are the same again.

    Arguments as in [`to_bins`], the object in bins.
    """
    points = grid.bins_to_points(np.reshape(item.bins, (-1, 2)), width, height).ravel().tolist()
    return replace(item, bins=None, **{"poly" if item.is_polygon else "bbox_2d": points})


def convert_tokens(
    data: str | Path,
    out: str | Path | None = None,
    inverse: bool = False,
    num_bins: int = DEFAULT_GRID.num_bins,
    image_root: str | Path | None = None,
    show_progress: bool = True,
) -> tuple[Path, ConversionReport]:
    """
    Writes a file of records in pixels as one in coordinate tokens, or the inverse.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records.
        out (`str` or `Path`, *optional*):
            File to write. Defaults to `a.coord.jsonl` for `a.jsonl`, and for the inverse to `a.pixels.jsonl`.
        inverse (`bool`, *optional*, defaults to `False`):
            Whether to go from tokens to pixels. Pixels then are not integers, because only so do the same tokens come
            back.
        num_bins (`int`, *optional*, defaults to `1000`):
            Number of bins.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `tuple[Path, ConversionReport]`: the file written, and the counts.

    Raises:
        `ValueError`: if a record is wrong, or already is in the form asked for.
    """
    grid, data = CoordinateGrid(num_bins), Path(data)
    out = _default_out(data, inverse) if out is None else Path(out)
    check_out(data, out)
    report = ConversionReport()
    records = tqdm(iter_records(data, image_root, grid), desc="Converting", unit="record", disable=not show_progress)
    report.images = write_records(_converted(records, out, inverse, grid, report), out)
    report.check()
    return out, report


def _default_out(data: Path, inverse: bool) -> Path:
    stem = data.name.removesuffix(".jsonl")
    return data.with_name(stem.removesuffix(".coord") + PIXEL_SUFFIX if inverse else stem + TOKEN_SUFFIX)


def _converted(
    records: Iterator[DetectionRecord], out: Path, inverse: bool, grid: CoordinateGrid, report: ConversionReport
) -> Iterator[DetectionRecord]:
    convert: Callable[..., DetectionObject] = to_pixels if inverse else to_bins
    for record in records:
        if any((item.bins is None) == inverse for item in record.objects):
            form, remedy = ("pixels", "Leave out --inverse") if inverse else ("tokens", "Use --inverse for pixels")
            raise RecordError(f"{record.place}: the objects already are in {form}. {remedy}.")
        report.objects_in += len(record.objects)
        objects = tuple(convert(item, record.width, record.height, grid) for item in record.objects)
        report.objects_out += len(objects)
        yield replace(relocate(record, out), objects=objects)

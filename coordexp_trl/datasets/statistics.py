# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What a file of records holds: objects, classes, sizes, overlaps, and the tokens that its ground truth takes."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from coordexp_trl.boxes import box_iou
from coordexp_trl.matching import normalize_desc
from coordexp_trl.protocols import Protocol
from coordexp_trl.records import DEFAULT_GRID, DetectionRecord, iter_records
from coordexp_trl.sequences import ground_truth

SMALL, LARGE = 32**2, 96**2  # square pixels, COCO's borders between small, medium and large
_LENGTH_STEP = 64  # suggested lengths are multiples of it


def dataset_statistics(
    path: str | Path,
    protocols: Sequence[Protocol] = (),
    geometry: str = "box",
    show_progress: bool = True,
) -> dict[str, Any]:
    """
    Reads a file of detection records once; a few numbers an object stay in memory.

    Args:
        path (`str` or `Path`):
            JSONL file of detection records, in pixels or bins.
        protocols (`Sequence[Protocol]`, *optional*, defaults to `()`):
            Protocols whose token lengths are wanted.
        geometry (`str`, *optional*, defaults to `"box"`):
            How polygons are written: `"box"` or `"native"`, see [`ground_truth`].
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `dict[str, Any]`: values that JSON can hold.

        - `images`, `empty_images`, `objects`, `polygons`: counts;
        - `classes`: number of objects by normalised description, the most frequent first;
        - `objects_per_image`, `vertices`, `relative_side`: [`summary`] of the objects of an image, the vertices of a
          polygon, and the square root of box area over image area;
        - `sizes`: boxes below 32², up to 96² and above, in square pixels of the image file;
        - `largest_same_class_iou`: largest IoU of two objects of one class in one image, `None` without such a pair.
          Predictions that overlap more are duplicates;
        - `tokens`: for each protocol a [`summary`] of the completion's length with its end token, and
          `fits_99_percent`, `fits_all`: values of `max_completion_length` that hold as many records, with
          `records_beyond`, the number of records longer than the first.

    Raises:
        [`RecordError`], a `ValueError`: at the first record that cannot be used.
        `ValueError`: if a protocol cannot write a description.
    """
    per_image, vertices, sides, areas = array("i"), array("i"), array("d"), array("d")
    lengths = {protocol.name: array("i") for protocol in protocols}
    classes: Counter[str] = Counter()
    overlap = None
    records = iter_records(path)
    for record in tqdm(records, desc="Reading", unit="record", disable=not show_progress):
        per_image.append(len(record.objects))
        names = [normalize_desc(item.desc) for item in record.objects]
        classes.update(names)
        boxes = np.array(
            [item.pixel_box(record.width, record.height, DEFAULT_GRID) for item in record.objects]
        ).reshape(-1, 4)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        areas.extend(area)
        sides.extend(np.sqrt(area / (record.width * record.height)))
        vertices.extend(len(item.poly or item.bins) // 2 for item in record.objects if item.is_polygon)
        if (found := _largest_overlap(boxes, names)) is not None:
            overlap = max(found, overlap or 0.0)
        for protocol in protocols:
            lengths[protocol.name].append(_length(record, protocol, geometry))
    area = np.array(areas)
    return {
        "images": len(per_image),
        "empty_images": per_image.count(0),
        "objects": sum(per_image),
        "polygons": len(vertices),
        "classes": dict(classes.most_common()),
        "objects_per_image": summary(per_image),
        "vertices": summary(vertices),
        "relative_side": summary(sides),
        "sizes": {
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area <= LARGE)).sum()),
            "large": int((area > LARGE).sum()),
        },
        "largest_same_class_iou": overlap,
        "tokens": {name: _token_summary(np.array(values)) for name, values in lengths.items()},
    }


def summary(values: Iterable[float]) -> dict[str, float] | None:
    """Returns `mean`, `median`, `p95`, `p99` and `max` of numbers, `None` if there are none."""
    values = np.array(values, dtype=float)
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    figures = {"mean": values.mean(), "median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {name: float(value) for name, value in figures.items()}


def _largest_overlap(boxes: np.ndarray, names: list[str]) -> float | None:
    """Largest IoU of two boxes of one name."""
    if len(set(names)) == len(names):
        return None
    _, kinds = np.unique(names, return_inverse=True)
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    return float(np.triu(iou * (kinds[:, None] == kinds[None]), k=1).max())


def _length(record: DetectionRecord, protocol: Protocol, geometry: str) -> int:
    grid = DEFAULT_GRID
    try:
        return len(protocol.encode(ground_truth(record, grid, geometry=geometry))) + 1  # and the end token
    except ValueError as error:
        raise ValueError(f"{record.place}: {error}") from error


def _token_summary(lengths: np.ndarray) -> dict[str, float]:
    longest = [np.percentile(lengths, part, method="higher") for part in (99, 100)]
    fits = [int(-(-length // _LENGTH_STEP) * _LENGTH_STEP) for length in longest]
    return {
        **summary(lengths),
        "fits_99_percent": fits[0],
        "fits_all": fits[1],
        "records_beyond": int((lengths > fits[0]).sum()),
    }

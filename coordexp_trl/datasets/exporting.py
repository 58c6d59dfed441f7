# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What exporters of detection records to line-based formats share: image paths, pixel boxes, counts."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.json_lines import write_json_lines
from coordexp_trl.datasets.relocation import check_out
from coordexp_trl.records import DEFAULT_GRID, DetectionRecord, iter_records

IMAGE_PATHS = ("absolute", "relative")


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """A record as exporters need it: the path of its image as it shall be written, and its objects as pixel boxes."""

    image: str
    width: int
    height: int
    descs: list[str]
    boxes: list[tuple[float, float, float, float]]
    place: str
    record: DetectionRecord


def export_lines(
    data: str | Path,
    out: str | Path,
    to_row: Callable[[BoxedImage, ConversionReport], Any],
    image_root: str | Path | None = None,
    image_paths: str = "absolute",
) -> ConversionReport:
    """
    Writes each record of a file as one JSON line of another format. The file appears complete or not at all.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or coordinate tokens; read line by line.
        out (`str` or `Path`):
            File to write.
        to_row (`Callable[[BoxedImage, ConversionReport], Any]`):
            Turns a record into what its line shall hold, `None` to leave it out.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        image_paths (`str`, *optional*, defaults to `"absolute"`):
            `"absolute"`, or `"relative"` to `image_root`.

    Returns:
        [`ConversionReport`]: the counts; polygons are exported as their boxes, which is a note.

    Raises:
        `ValueError`: if the records are malformed, or an image lies outside `image_root` and paths are relative.
    """
    if image_paths not in IMAGE_PATHS:
        raise ValueError(f"image_paths = {image_paths!r}: must be one of {', '.join(IMAGE_PATHS)}.")
    data, out = Path(data), Path(out)
    check_out(data, out)
    root = data.parent if image_root is None else Path(image_root)
    report = ConversionReport()

    def rows() -> Iterator[Any]:
        for record in tqdm(iter_records(data, root), desc="Exporting", unit="record"):
            report.objects_in += len(record.objects)
            row = to_row(_boxed(record, root, image_paths, report), report)
            if row is not None:
                report.objects_out += len(record.objects)
                yield row

    report.images = write_json_lines(rows(), out)
    report.check()
    return report


def _boxed(record: DetectionRecord, root: Path, image_paths: str, report: ConversionReport) -> BoxedImage:
    polygons = sum(item.is_polygon for item in record.objects)
    if polygons:
        report.notes["polygon as its box"] += polygons
    if len(record.images) > 1:
        report.notes["record with further images, left out"] += 1
    image = Path(os.path.abspath(record.image_path))
    if image_paths == "relative":
        folder = os.path.abspath(root)
        if not image.is_relative_to(folder):
            raise ValueError(
                f"{record.place}: the image {image} lies outside the image root {folder}. Give a higher image root "
                "(--image-root), or write absolute paths (--image-paths absolute)."
            )
        image = image.relative_to(folder)
    boxes = [item.pixel_box(record.width, record.height, DEFAULT_GRID) for item in record.objects]
    descs = [item.desc for item in record.objects]
    return BoxedImage(image.as_posix(), record.width, record.height, descs, boxes, record.place, record)

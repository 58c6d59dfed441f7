# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Pictures of records, to see whether the boxes lie where they should."""

import random
from collections.abc import Collection
from pathlib import Path

from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.evaluation.pictures import draw_objects, save_overlays
from coordexp_trl.images import load_image
from coordexp_trl.records import DetectionRecord, iter_lines, parse_record


def show_records(
    data: str | Path,
    out: str | Path,
    num: int = 16,
    seed: int = 0,
    lines: Collection[int] | None = None,
    image_root: str | Path | None = None,
) -> list[Path]:
    """
    Draws the objects of some records over their images.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or bins.
        out (`str` or `Path`):
            Folder to write: `<line>_<image>.jpg` for each record, and all of them on `sheet.jpg`.
        num (`int`, *optional*, defaults to `16`):
            Number of records, drawn at random; all if the file has fewer.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the drawing.
        lines (`Collection[int]`, *optional*):
            Numbers of the lines to draw, from 1, instead of a random choice.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.

    Returns:
        `list[Path]`: the pictures, in the order of the file, without the sheet.

    Raises:
        `ValueError`: if a record or its image cannot be used, `num` is below 1, or a line holds no record.
    """
    if num < 1:
        raise ValueError(f"num = {num!r}: must be at least 1.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    records = _chosen(Path(data), num, seed, image_root) if lines is None else _at_lines(Path(data), lines, image_root)
    pictures, paths = [], []
    for record in records:
        line = record.source.rpartition(":")[2]
        title = f"{line}: {Path(record.images[0]).name}"
        pictures.append(draw_objects(load_image(record), record.objects, title))
        paths.append(out / f"{line}_{Path(record.images[0]).stem}.jpg")
        pictures[-1].save(paths[-1], quality=90)
    save_overlays(pictures, out / "sheet.jpg")
    return paths


def _chosen(data: Path, num: int, seed: int, image_root: str | Path | None) -> list[DetectionRecord]:
    file = RecordFile(data, image_root)
    chosen = random.Random(seed).sample(range(len(file)), min(num, len(file)))
    return [file[index] for index in sorted(chosen)]


def _at_lines(data: Path, lines: Collection[int], image_root: str | Path | None) -> list[DetectionRecord]:
    root = data.parent if image_root is None else Path(image_root)
    wanted = set(lines)
    found = [parse_record(line, root, f"{data}:{number}") for number, _, line in iter_lines(data) if number in wanted]
    missing = wanted - {int(record.source.rpartition(":")[2]) for record in found}
    if missing or not found:
        raise ValueError(f"lines: {data} has no record in line {min(missing, default=0)}. Lines count from 1.")
    return found

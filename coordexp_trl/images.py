# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Loading and checking the images of detection records.

Pixels are taken as they are stored: EXIF orientation is not applied, because the boxes of public datasets refer to
stored pixels. A record that was annotated on the rotated image is recognised by its swapped size and reported.
"""

import os
from collections.abc import Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from coordexp_trl.image_files import UnusableImage, decode_image, size_problem
from coordexp_trl.records import DetectionRecord, RecordError

_MAX_LISTED = 5
_AT_ONCE = 4096


def load_image(record: DetectionRecord) -> Image.Image:
    """
    Loads the image of a record.

    Args:
        record ([`DetectionRecord`]):
            The record; its `width` and `height` must be those of the image.

    Returns:
        `PIL.Image.Image`: the decoded RGB image. It carries no file metadata, so that nothing rotates it later.

    Raises:
        [`RecordError`], a `ValueError`: if the file is missing, cannot be decoded, or has another size.
    """
    try:
        image, size = decode_image(record.image_path)
    except UnusableImage as error:
        raise RecordError(_located(record, error)) from error.__cause__
    problem = size_problem(record.image_path, size, (record.width, record.height))
    if problem:
        raise RecordError(_located(record, problem))
    image = image.convert("RGB")
    image.info = {}
    return image


def check_images(
    records: Iterable[DetectionRecord], num_workers: int | None = None, show_progress: bool = True
) -> None:
    """
    Decodes every image and compares its size with each of its records; records that follow each other share the work.

    Args:
        records (`Iterable[DetectionRecord]`):
            The records to check; several may share an image.
        num_workers (`int`, *optional*):
            Number of threads. Defaults to the number of CPUs, at most 16.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Raises:
        `ValueError`: if `num_workers` is below 1.
        [`RecordError`], a `ValueError`: with the number of faulty records and the first 5 problems in record order.
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers = {num_workers!r}: must be at least 1, or None for the number of CPUs.")
    total = len(records) if isinstance(records, Sized) else None
    records, count, faulty, listed = iter(records), 0, 0, []
    with (
        ThreadPoolExecutor(num_workers or min(16, os.cpu_count() or 1)) as pool,
        tqdm(desc="Checking images", total=total, unit="image", disable=not show_progress) as bar,
    ):
        # Not all records at once: they may be read from a file larger than memory
        while part := list(islice(records, _AT_ONCE)):
            paths = list(dict.fromkeys(record.image_path for record in part))
            found = {}
            for path, probe in zip(paths, pool.map(_probe, paths), strict=True):
                found[path] = probe
                bar.update()
            bar.update(len(part) - len(paths))
            for record in part:
                if problem := _problem(record, found[record.image_path]):
                    faulty += 1
                    listed += [_located(record, problem)][: _MAX_LISTED - len(listed)]
            count += len(part)
    if faulty:
        lines = [f"{faulty} of {count} records have an unusable image:", *listed]
        if faulty > _MAX_LISTED:
            lines.append(f"... and {faulty - _MAX_LISTED} more")
        raise RecordError("\n  ".join(lines))


def _problem(record: DetectionRecord, probe: tuple[int, int] | UnusableImage) -> UnusableImage | str | None:
    if isinstance(probe, UnusableImage):
        return probe
    return size_problem(record.image_path, probe, (record.width, record.height))


def _located(record: DetectionRecord, problem: UnusableImage | str) -> str:
    return f"{record.source + ': ' if record.source else ''}images[0] = {str(record.image_path)!r}: {problem}"


def _probe(path: Path) -> tuple[int, int] | UnusableImage:
    try:
        return decode_image(path, cheaply=True)[1]
    except UnusableImage as error:
        return error

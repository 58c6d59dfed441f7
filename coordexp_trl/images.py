# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Loading and checking the images of detection records.

Pixels are taken as they are stored: EXIF orientation is not applied, because the boxes of public datasets refer to
stored pixels. A record that was annotated on the rotated image is recognised by its swapped size and reported.
"""

import os
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import ExifTags, Image
from tqdm.auto import tqdm

from coordexp_trl.records import DetectionRecord, RecordError

_MAX_LISTED = 5
_RGB_LIKE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # not 16-bit and float
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


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
        image, size = _decode(record.image_path)
    except RecordError as error:
        raise RecordError(_located(record, error)) from error.__cause__
    problem = _size_problem(record, size)
    if problem:
        raise RecordError(_located(record, problem))
    image = image.convert("RGB")
    image.info = {}
    return image


def check_images(
    records: Iterable[DetectionRecord], num_workers: int | None = None, show_progress: bool = True
) -> None:
    """
    Decodes every image once and compares its size with each of its records.

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
    records = list(records)
    paths = list(dict.fromkeys(record.image_path for record in records))
    with ThreadPoolExecutor(num_workers or min(16, os.cpu_count() or 1)) as pool:
        probes = pool.map(_probe, paths)
        bar = tqdm(probes, desc="Checking images", total=len(paths), unit="image", disable=not show_progress)
        found = dict(zip(paths, bar, strict=True))
    problems = []
    for record in records:
        probe = found[record.image_path]
        problem = probe if isinstance(probe, RecordError) else _size_problem(record, probe)
        if problem:
            problems.append(_located(record, problem))
    if problems:
        lines = [f"{len(problems)} of {len(records)} records have an unusable image:", *problems[:_MAX_LISTED]]
        if len(problems) > _MAX_LISTED:
            lines.append(f"... and {len(problems) - _MAX_LISTED} more")
        raise RecordError("\n  ".join(lines))


def _located(record: DetectionRecord, problem: RecordError | str) -> str:
    return f"{record.source + ': ' if record.source else ''}images[0] = {str(record.image_path)!r}: {problem}"


def _decode(path: Path, cheaply: bool = False) -> tuple[Image.Image, tuple[int, int]]:
    """Returns the decoded image and its size as stored; decoded cheaply, the image itself may be smaller."""
    try:
        with Image.open(path) as image:
            size = image.size
            if image.mode not in _RGB_LIKE_MODES:
                raise RecordError(f"pixels of mode {image.mode!r} have no plain RGB form. Save it with 8 bits.")
            if cheaply:
                image.draft(None, (1, 1))  # JPEG only: reads the whole file but computes one pixel in 64
            image.load()
        return image, size
    except RecordError:
        raise
    except FileNotFoundError as error:
        raise RecordError("no such file. Check the path and the image root.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"the image cannot be decoded ({reason}). Replace the file or drop the record.") from error


def _probe(path: Path) -> tuple[int, int] | RecordError:
    try:
        return _decode(path, cheaply=True)[1]
    except RecordError as error:
        return error


def _size_problem(record: DetectionRecord, size: tuple[int, int]) -> str | None:
    expected = (record.width, record.height)
    if size == expected:
        return None
    if size[::-1] != expected:
        remedy = "Correct width and height, or use the image that was annotated."
    elif _exif_orientation(record.image_path) in _QUARTER_TURNS:
        remedy = (
            "The EXIF orientation of the file explains it: the annotation refers to the rotated image. Save the image "
            "upright (PIL.ImageOps.exif_transpose)."
        )
    else:
        remedy = "Width and height look swapped."
    return f"the image is {size[0]} x {size[1]} pixels, but the record says {expected[0]} x {expected[1]}. {remedy}"


def _exif_orientation(path: Path) -> int | None:
    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):  # damaged metadata of a readable image
        return None

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Resizes one image file. Imports nothing heavy, because every worker process imports it."""

import os
import shutil
from typing import NamedTuple

from PIL import Image

from coordexp_trl.image_files import UnusableImage, decode_image, exif_orientation, size_problem

_KEPT_FORMATS = {"JPEG": ".jpg", "PNG": ".png"}


class ResizeJob(NamedTuple):
    """
    One image to resize.

    Args:
        source (`str`):
            The image file.
        target (`str`):
            The file to write, without suffix.
        expected (`tuple[int, int]`):
            Width and height that the source must have.
        size (`tuple[int, int]`):
            Width and height to write.
        quality (`int`):
            Quality of the JPEG file.
    """

    source: str
    target: str
    expected: tuple[int, int]
    size: tuple[int, int]
    quality: int


class ResizedImage(NamedTuple):
    """What became of a job: the suffix of the file and its length in bytes, or why the source cannot be used."""

    suffix: str = ""
    num_bytes: int = 0
    problem: str = ""


def resize_image(job: ResizeJob) -> ResizedImage:
    """
    Writes one image in its new size: complete, or not at all.

    An RGB image in JPEG or PNG that has the right size, and no EXIF orientation that a viewer would apply, is copied
    byte for byte after it was decoded in full. Any other becomes an RGB JPEG file without metadata, resized by
    bicubic interpolation as Qwen's image processor does.

    Args:
        job ([`ResizeJob`]):
            What to do.

    Returns:
        [`ResizedImage`]: what was written, or why the source cannot be used.

    Raises:
        `OSError`: if the file cannot be written.
    """
    try:
        image, size = decode_image(job.source)
        problem = size_problem(job.source, size, job.expected)
    except UnusableImage as error:
        problem = str(error)
    if problem:
        return ResizedImage(problem=problem)
    suffix = _KEPT_FORMATS.get(image.format or "", "") if image.mode == "RGB" and size == job.size else ""
    if suffix and exif_orientation(job.source) not in (None, 1):
        suffix = ""
    path = job.target + (suffix or ".jpg")
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        if suffix:
            shutil.copyfile(job.source, temporary)
        else:
            _encode(image, job.size, temporary, job.quality)
        num_bytes = os.path.getsize(temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return ResizedImage(suffix or ".jpg", num_bytes)


def _encode(image: Image.Image, size: tuple[int, int], path: str, quality: int) -> None:
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    image.info = {}  # comments and the like would be written too
    image.save(path, format="JPEG", quality=quality)

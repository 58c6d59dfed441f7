# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading image files: one way to decode, for training and for preparing data. Imports nothing heavy, for workers."""

import os
import struct

from PIL import ExifTags, Image

RGB_LIKE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # not 16-bit and float
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class UnusableImage(ValueError):
    """An image file that cannot be used; the message says why and what to do."""


def decode_image(path: str | os.PathLike, cheaply: bool = False) -> tuple[Image.Image, tuple[int, int]]:
    """
    Decodes an image file, its pixels as stored: EXIF orientation is not applied.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        cheaply (`bool`, *optional*, defaults to `False`):
            Whether to decode only to find damage; the image returned may then be smaller than the stored one.

    Returns:
        `tuple[PIL.Image.Image, tuple[int, int]]`: the image, in any mode that has a plain RGB form, and the stored
        width and height.

    Raises:
        [`UnusableImage`], a `ValueError`: if the file is missing, damaged, or has no plain RGB form.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            if image.mode not in RGB_LIKE_MODES:
                raise UnusableImage(f"pixels of mode {image.mode!r} have no plain RGB form. Save it with 8 bits.")
            if cheaply:
                image.draft(None, (1, 1))  # JPEG only: reads the whole file but computes one pixel in 64
            image.load()
        return image, size
    except UnusableImage:
        raise
    except FileNotFoundError as error:
        raise UnusableImage("no such file. Check the path and the image root.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise UnusableImage(f"the image cannot be decoded ({reason}). Replace the file or drop the record.") from error


def size_problem(path: str | os.PathLike, size: tuple[int, int], expected: tuple[int, int]) -> str | None:
    """
    Says what is wrong if an image has another size than its record.

    Args:
        path (`str` or `os.PathLike`):
            The image file.
        size (`tuple[int, int]`):
            Width and height of the file, as stored.
        expected (`tuple[int, int]`):
            Width and height of the record.

    Returns:
        `str` or `None`: the problem and its remedy, `None` if the sizes agree.
    """
    if size == expected:
        return None
    if size[::-1] != expected:
        remedy = "Correct width and height, or use the image that was annotated."
    elif exif_orientation(path) in QUARTER_TURNS:
        remedy = (
            "The EXIF orientation of the file explains it: the annotation refers to the rotated image. Save the image "
            "upright (PIL.ImageOps.exif_transpose)."
        )
    else:
        remedy = "Width and height look swapped."
    return f"the image is {size[0]} x {size[1]} pixels, but the record says {expected[0]} x {expected[1]}. {remedy}"


def exif_orientation(path: str | os.PathLike) -> int | None:
    """Returns the EXIF orientation of a readable image file, `None` if it has none or its metadata is damaged."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):  # damaged metadata of a readable image
        return None

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What every converter to detection records shares: the report, reading JSON, image paths and sizes, clipping."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass
class ConversionReport:
    """
    Counts of a conversion; every object that came in either went out or was dropped for a reason.

    Args:
        images (`int`):
            Records written, one an image.
        objects_in (`int`):
            Objects found in the annotations.
        objects_out (`int`):
            Objects written.
        dropped (`Counter[str]`):
            Objects left out, by reason.
        notes (`Counter[str]`):
            What else was found and tolerated, such as boxes clipped to the image.
    """

    images: int = 0
    objects_in: int = 0
    objects_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        """Asserts that no object was lost."""
        assert self.objects_in == self.objects_out + self.dropped.total(), self

    def rows(self) -> list[tuple[str, int]]:
        """The counts as rows of a table."""
        rows = [("images", self.images), ("objects in", self.objects_in), ("objects out", self.objects_out)]
        rows += [(f"dropped: {reason}", count) for reason, count in sorted(self.dropped.items())]
        return rows + [(f"note: {note}", count) for note, count in sorted(self.notes.items())]


def clip_box(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[tuple[float, float, float, float], str | None]:
    """
    Clips a box to its image.

    Args:
        box (`tuple[float, float, float, float]`):
            Box, xyxy, in pixels.
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.

    Returns:
        `tuple[tuple[float, float, float, float], str | None]`: the clipped box, and why it cannot be used: `"inverted
        box"`, `"degenerate box"` (no area), `"box outside the image"`, or `None` if it can.
    """
    x1, y1, x2, y2 = box
    clipped = (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
    if x2 < x1 or y2 < y1:
        return clipped, "inverted box"
    if x2 == x1 or y2 == y1:
        return clipped, "degenerate box"
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return clipped, "box outside the image"
    return clipped, None


def image_reference(image: Path, out: Path) -> str:
    """
    How a record of the file `out` refers to an image.

    Args:
        image (`Path`):
            The image file.
        out (`Path`):
            The JSONL file.

    Returns:
        `str`: the path relative to the folder of `out` if the image lies below it, which keeps the folder movable, and
        the absolute path otherwise, because a record may not leave its root.
    """
    absolute = Path(os.path.abspath(image))
    folder = Path(os.path.abspath(out)).parent
    return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else absolute.as_posix()


def read_json(path: str | Path, name: str) -> Any:
    """
    Reads a JSON file.

    Args:
        path (`str` or `Path`):
            The file, UTF-8.
        name (`str`):
            Name of the option that gave it, for messages.

    Returns:
        What the file holds. NaN and infinities, which Python's reader admits, are left to the caller's checks.

    Raises:
        `ValueError`: if the file is missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} = {str(path)!r}: cannot be read ({error}).") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: column {error.colno}: invalid JSON ({error.msg}).") from error


def read_size(image: str | Path, needed_by: str) -> tuple[int, int]:
    """
    Reads width and height in pixels from the header of an image file, as stored: EXIF orientation is not applied.

    Args:
        image (`str` or `Path`):
            The image file.
        needed_by (`str`):
            Place in the annotations that refers to it, for messages.

    Returns:
        `tuple[int, int]`: width and height.

    Raises:
        `ValueError`: if the file is missing or no image.
    """
    try:
        with Image.open(image) as opened:
            return opened.size
    except FileNotFoundError as error:
        raise ValueError(f"{image}: no such image, needed by {needed_by}. Check the folder of the images.") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{image}: not a readable image ({error}), needed by {needed_by}.") from error

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Finds the image files of COCO and LVIS annotations and compares their sizes with those of the annotation file."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm.auto import tqdm

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco_annotations import CocoAnnotations
from coordexp_trl.datasets.conversion import read_size
from coordexp_trl.image_files import size_problem

_MAX_LISTED = 5


@dataclass(frozen=True)
class FoundImage:
    """
    The image of an entry of `images`.

    Args:
        path (`Path`):
            The file.
        width (`int`):
            Width in pixels.
        height (`int`):
            Height in pixels.
    """

    path: Path
    width: int
    height: int


class MissingImage(ValueError):
    """An image whose file does not exist."""


def image_names(image: dict, place: str) -> list[str]:
    """
    The paths, relative to the folder of images, at which the file of an image is looked for.

    Args:
        image (`dict`):
            Entry of `images`.
        place (`str`):
            Where it stands, for messages.

    Returns:
        `list[str]`: `file_name`, then of the path of `coco_url` the last two parts (`train2017/000000391895.jpg`) and
        the last one.

    Raises:
        `ValueError`: if the entry has neither.
    """
    names = []
    for key in ("file_name", "coco_url"):
        value = image.get(key)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{place}.{key} = {shorten(value)}: must be text.")
        if key == "file_name":
            names.append(value)
        else:
            parts = PurePosixPath(unquote(urlsplit(value).path)).parts
            names += ["/".join(parts[-2:]).lstrip("/"), parts[-1]] if parts else []
    if not names:
        raise ValueError(f"{place}: neither file_name nor coco_url, so its file is unknown.")
    return list(dict.fromkeys(names))


def find_images(
    annotations: CocoAnnotations, folder: str | Path | None, skip_missing: bool = False
) -> list[FoundImage | None]:
    """
    Finds the file of every image and compares width and height, as stored in the file, with the annotations.

    Args:
        annotations ([`CocoAnnotations`]):
            The annotations.
        folder (`str` or `Path`, *optional*):
            Folder of the images. Without it nothing is looked for: paths and sizes are those of the annotations.
        skip_missing (`bool`, *optional*, defaults to `False`):
            Whether images without file are left out instead of being an error.

    Returns:
        `list[FoundImage | None]`: for every entry of `images` its file, `None` if it is left out.

    Raises:
        `ValueError`: if files are missing, leave the folder, are no images or have another size; with their number and
            the first 5 problems.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"images = {str(folder)!r}: no such folder.")
    if folder is None and skip_missing:
        raise ValueError("skip_missing_images (--skip-missing-images): needs the folder of the images (--images).")

    def find(index: int) -> FoundImage | ValueError:
        try:
            return _find(annotations.images[index], annotations.image_place(index), folder)
        except ValueError as error:
            return error

    indices = range(len(annotations.images))
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:  # mostly waiting for the disk
        found = list(tqdm(pool.map(find, indices), desc="Checking images", total=len(indices), unit="image"))
    problems = [each for each in found if isinstance(each, ValueError)]
    if skip_missing:
        problems = [problem for problem in problems if not isinstance(problem, MissingImage)]
    if problems:
        lines = [f"{len(problems)} of {len(found)} images cannot be used:", *map(str, problems[:_MAX_LISTED])]
        if len(problems) > _MAX_LISTED:
            lines.append(f"... and {len(problems) - _MAX_LISTED} more")
        if any(isinstance(problem, MissingImage) for problem in problems):
            lines.append("Check the folder of the images, or leave out those without file (--skip-missing-images).")
        raise ValueError("\n  ".join(lines))
    if all(isinstance(each, MissingImage) for each in found):
        raise ValueError(f"images = {str(folder)!r}: none of the {len(found)} images is there, the first: {found[0]}")
    return [each if isinstance(each, FoundImage) else None for each in found]


def _find(image: dict, place: str, folder: str | Path | None) -> FoundImage:
    names = image_names(image, place)
    stated = tuple(image.get(key) for key in ("width", "height"))
    for key, value in zip(("width", "height"), stated, strict=True):
        if value is None and folder is not None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{place}.{key} = {shorten(value)}: must be a positive integer, in pixels.")
    if folder is None:
        if _leaves("", names[0]):
            raise ValueError(f"{place}.file_name = {names[0]!r}: leaves the image folder.")
        return FoundImage(Path(names[0]), *stated)
    for name in names:
        path = Path(folder, name)
        if _leaves(folder, name):
            raise ValueError(f"{place}.file_name = {name!r}: leaves the image folder {folder}. Give a higher folder.")
        if path.is_file():
            break
    else:
        raise MissingImage(f"{place}: no such file in {str(folder)!r}: {' or '.join(names)}.")
    size = read_size(path, place)
    problem = size_problem(path, size, stated) if None not in stated else None
    if problem is not None:
        raise ValueError(f"{place}: {path}: {problem}")
    return FoundImage(path, *size)


def _leaves(folder: str | Path, name: str) -> bool:
    return not Path(os.path.abspath(Path(folder, name))).is_relative_to(os.path.abspath(folder))

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The images to look at: records of a JSONL file, a folder, or single files."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.image_files import RGB_LIKE_MODES
from coordexp_trl.records import DetectionRecord

IMAGE_SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .png .tif .tiff .webp".split())
_MAX_LISTED = 5


@dataclass
class InputImages:
    """
    Args:
        records (`Sequence[DetectionRecord]`):
            A record of each image, in data order; without objects unless the data is a file of records.
        identity (`dict[str, Any]`):
            What tells this data from any other, for a run that goes on later.
        problems (`dict[int, str]`):
            Why an image cannot be used, by its position.
    """

    records: Sequence[DetectionRecord]
    identity: dict[str, Any]
    problems: dict[int, str] = field(default_factory=dict)


def read_images(
    data: Sequence[str | Path],
    image_root: str | Path | None = None,
    limit: int | None = None,
    show_progress: bool = True,
) -> InputImages:
    """
    Lists the images of the data and looks whether their files are there; nothing is decoded yet.

    Args:
        data (`Sequence[str | Path]`):
            One JSONL file of records; or one folder, searched with its subfolders; or image files.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths of records start. Defaults to the folder of the file.
        limit (`int`, *optional*):
            Number of images, the first ones. All by default.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`InputImages`]

    Raises:
        `ValueError`: if the data is missing, empty or mixed, or a record is malformed.
    """
    paths = [Path(path) for path in data]
    if limit is not None and limit < 1:
        raise ValueError(f"limit = {limit}: must be at least 1.")
    if len(paths) == 1 and not paths[0].exists():
        raise ValueError(
            f"data = {str(paths[0])!r}: no such file or folder. Give a JSONL file of records, a folder or image files."
        )
    if len(paths) == 1 and paths[0].is_file() and paths[0].suffix.lower() not in IMAGE_SUFFIXES:
        records: Sequence[DetectionRecord] = RecordFile(paths[0], image_root, show_progress=show_progress)
        identity = {"file": os.path.realpath(paths[0]), "sha256": _digest_of_file(paths[0])}
        images = InputImages(records if limit is None else records[:limit], identity)
        missing = _checked(map(_missing, _progress(images.records, show_progress)))
        images.problems = dict(missing)
        return images
    if image_root is not None:
        raise ValueError("image_root is for a JSONL file of records. Leave it out with a folder or image files.")
    if len(paths) == 1 and paths[0].is_dir():
        root = paths[0]
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if _is_image(path))
        if not names:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"data = {str(root)!r}: the folder holds no image ({kinds}).")
    else:
        root, names = None, [str(path) for path in paths]
        for path in paths:
            if path.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES:
                raise ValueError(
                    f"data: {str(path)!r} is no image file. Give one JSONL file of records, one folder or image files."
                )
    return _images_of_files(root, names[:limit], show_progress)


def raise_problems(images: InputImages) -> None:
    """Raises a `ValueError` that names the first images which cannot be used, if there are any."""
    if images.problems:
        count, total = len(images.problems), len(images.records)
        lines = [f"{count} of {total} images cannot be used:", *list(images.problems.values())[:_MAX_LISTED]]
        if count > _MAX_LISTED:
            lines.append(f"... and {count - _MAX_LISTED} more")
        raise ValueError("\n  ".join(lines) + "\nRepair them, or leave them out with --skip-bad-images.")


def _images_of_files(root: Path | None, names: Sequence[str], show_progress: bool) -> InputImages:
    identity = {"folder": None if root is None else os.path.realpath(root), "sha256": _digest("\n".join(names))}
    images = InputImages([], identity)
    files = [Path(name) if root is None else root / name for name in names]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for number, found in enumerate(pool.map(_stored_size, _progress(files, show_progress))):
            if isinstance(found, str):
                images.problems[number] = found
                found = (1, 1)
            images.records.append(DetectionRecord((names[number],), *found, objects=(), root=root))
    return images


def _progress(items: Sequence, show_progress: bool) -> Iterator:
    return tqdm(items, desc="Looking for images", unit="image", disable=not show_progress, delay=2, leave=False)


def _checked(found: Iterator[str | None]) -> Iterator[tuple[int, str]]:
    return ((number, problem) for number, problem in enumerate(found) if problem)


def _missing(record: DetectionRecord) -> str | None:
    if len(record.images) != 1:
        return f"{record.place}: images has {len(record.images)} entries; exactly one is supported."
    if os.path.isfile(record.image_path):
        return None
    return f"{record.place}: images[0] = {str(record.image_path)!r}: no such file. Check the path and --image-root."


def _stored_size(path: Path) -> tuple[int, int] | str:
    """Width and height as stored, or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            if image.mode not in RGB_LIKE_MODES:
                return f"{path}: pixels of mode {image.mode!r} have no plain RGB form. Save it with 8 bits."
            return image.size
    except FileNotFoundError:
        return f"{path}: no such file."
    except Exception as error:  # decoders raise nearly anything on damaged files
        return f"{path}: cannot be read as an image ({type(error).__name__}: {error})."


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

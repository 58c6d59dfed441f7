# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Pictures of evaluated images: ground truth beside predictions, in the colours of what became of them."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from coordexp_trl.evaluation.image_results import ImageResult, ObjectResult
from coordexp_trl.evaluation.panels import draw_pair
from coordexp_trl.evaluation.report import Figure, encode_picture
from coordexp_trl.image_files import UnusableImage, decode_image
from coordexp_trl.workers import resolve_num_workers

SORTS = ("worst", "best", "name", "random")
_KINDS = {"tp": "TP", "fp": "FP", "duplicate": "duplicate", "ignored": "ignored"}
_LAYERS = ("ignored", "duplicate", "fp", "tp")  # from the bottom to the top
_SIDE = 640  # longest side of a panel in pixels
_MANY, _SIDE_OF_MANY = 100, 448  # so many pictures get smaller ones: a page of 500 must still open
_GREY = (110, 112, 118)


def choose_images(images: Sequence[ImageResult], num: int, sort: str = "worst", seed: int = 0) -> list[ImageResult]:
    """
    Chooses and orders the images of a gallery.

    Args:
        images (`Sequence[ImageResult]`):
            All images.
        num (`int`):
            How many to show at most.
        sort (`str`, *optional*, defaults to `"worst"`):
            `"worst"` or `"best"`: by the number of errors (false positives and missed objects), equal ones by name;
            `"name"`; or `"random"`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random order.

    Returns:
        `list[ImageResult]`: the images; their order does not depend on that of `images`.

    Raises:
        `ValueError`: if `num` is negative or `sort` is unknown.
    """
    if num < 0:
        raise ValueError(f"max_images = {num}: must be 0 or more.")
    if sort not in SORTS:
        raise ValueError(f"sort = {sort!r}: must be one of {', '.join(SORTS)}.")
    ordered = sorted(images, key=lambda item: item.image)
    if sort == "random":
        random.Random(seed).shuffle(ordered)
    elif sort != "name":
        ordered.sort(key=lambda item: item.errors, reverse=sort == "worst")
    return ordered[:num]


def draw_images(
    images: Sequence[ImageResult],
    image_root: Path | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> tuple[list[Figure], int]:
    """
    Draws evaluated images.

    Args:
        images (`Sequence[ImageResult]`):
            The images.
        image_root (`Path`, *optional*):
            Folder at which relative image paths start. Defaults to where the images lay when they were evaluated.
        num_workers (`int`, *optional*):
            Number of threads. Defaults to the number of CPUs that this process may use.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `tuple[list[Figure], int]`: a figure for each image, in their order, and how many image files could not be
        read: these are drawn on grey.

    Raises:
        `ValueError`: if `num_workers` is below 1.
    """
    side = _SIDE if len(images) <= _MANY else _SIDE_OF_MANY
    draw = partial(_draw, image_root=image_root, side=side)
    with ThreadPoolExecutor(resolve_num_workers(num_workers)) as pool:  # most of the work is Pillow's, without the GIL
        drawn = pool.map(draw, images)
        bar = tqdm(drawn, desc="Drawing images", total=len(images), unit="image", disable=not show_progress)
        figures, problems = [], 0
        for figure, readable in bar:
            figures.append(figure)
            problems += not readable
    return figures, problems


def image_file(item: ImageResult, image_root: Path | None) -> Path:
    """Returns where the image should lie."""
    if image_root is not None:
        return image_root / item.image  # an absolute path stays as it is
    return Path(item.image_path or item.image)


def _draw(item: ImageResult, image_root: Path | None, side: int) -> tuple[Figure, bool]:
    notes, size = _notes(item), (item.width, item.height)
    try:
        image, stored = decode_image(image_file(item, image_root))
        if stored != size:
            notes.append(
                f"the image file has {stored[0]} × {stored[1]} pixels, its boxes refer to {size[0]} × {size[1]}"
            )
        readable = True
    except UnusableImage as error:
        image, readable = Image.new("RGB", (1, 1), _GREY), False  # drawing enlarges it
        notes.append(f"drawn on grey: {error}")
    truths = [("ignored" if item.status == "ignored" else "GT", item.bbox_2d, item.desc) for item in item.ground_truth]
    outcomes = [("FN", found.bbox_2d, found.desc) for found in item.ground_truth if found.status == "missed"]
    ordered = sorted(item.predictions, key=lambda found: _LAYERS.index(found.status))
    outcomes += [(_KINDS[found.status], found.bbox_2d, _label(found)) for found in ordered]
    left, right = draw_pair(image, truths, outcomes, size, side)
    return Figure(encode_picture(left), f"{item.image}: {', '.join(notes)}", encode_picture(right)), readable


def _notes(item: ImageResult) -> list[str]:
    """What the caption says after the name."""
    repeated = f" ({item.duplicates} duplicate{'s' * (item.duplicates > 1)})" if item.duplicates else ""
    notes = [f"{item.tp} TP", f"{item.fp} FP{repeated}", f"{item.fn} missed"]
    if item.f1 is not None:
        notes.append(f"F1 {item.f1:.2f}")
    if item.finish_reason == "length":
        notes.append("cut at the length limit")
    if item.dropped:
        notes.append(f"{item.dropped} malformed")
    return notes


def _label(found: ObjectResult) -> str:
    return found.desc if found.score is None else f"{found.desc} {found.score:.2f}"

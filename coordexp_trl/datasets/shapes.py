# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Synthetic pictures of coloured circles, squares and triangles: a detection dataset that needs no download.

Shapes are rasterised in integer arithmetic from a frozen random stream, so that a seed gives the same pixels and boxes
on every machine. Boxes have continuous edges and are tight: the visible pixels of an object touch all four sides of
its box, also where another object hides a part of it.
"""

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from coordexp_trl.records import DetectionObject, DetectionRecord, write_records

COLORS = {
    "red": (205, 45, 45),
    "green": (45, 170, 65),
    "blue": (55, 90, 215),
    "yellow": (220, 205, 55),
    "purple": (160, 60, 190),
    "white": (225, 225, 225),
}
SHAPES = ("circle", "square", "triangle")

_COLOR_JITTER = 15
_NOISE = 12
_MAX_BACKGROUND = 70
_PLACEMENTS = 50  # random places tried for one object
_RESTARTS = 20  # random scenes tried for one picture


def create_shapes(
    out: str | Path,
    num_images: int,
    seed: int = 0,
    image_size: int = 128,
    min_objects: int = 1,
    max_objects: int = 4,
    max_overlap: float = 0.1,
) -> Path:
    """
    Writes a dataset of coloured shapes: `images/000000.png`, ... and the records of all pictures in `shapes.jsonl`.

    The folder appears complete or not at all: it is written beside its place and renamed.

    Args:
        out (`str` or `Path`):
            Folder to write; must not exist or be empty.
        num_images (`int`):
            Number of pictures.
        seed (`int`, *optional*, defaults to `0`):
            Seed, from 0 to 2^32 - 1. Picture `i` depends only on `(seed, i)` and the options below, so that a longer
            dataset begins with the pictures of a shorter one, and another seed gives a disjoint split.
        image_size (`int`, *optional*, defaults to `128`):
            Width and height of the pictures in pixels, at least 32.
        min_objects (`int`, *optional*, defaults to `1`):
            Least number of objects in a picture; 0 allows empty pictures.
        max_objects (`int`, *optional*, defaults to `4`):
            Largest number of objects in a picture; objects get smaller where there are many.
        max_overlap (`float`, *optional*, defaults to `0.1`):
            Largest overlap of two boxes: their intersection over the area of the smaller one, in `[0, 1]`.

    Returns:
        `Path`: the JSONL file.

    Raises:
        `ValueError`: if an option is out of range, the objects do not fit, or `out` is not an empty folder.
    """
    out = Path(out)
    if num_images < 1:
        raise ValueError(f"num_images = {num_images}: must be at least 1.")
    _check_options(seed, image_size, min_objects, max_objects, max_overlap)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out = {str(out)!r}: exists and is not an empty folder. Choose another or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        partial = Path(scratch) / "shapes"
        (partial / "images").mkdir(parents=True)
        records = []
        for index in tqdm(range(num_images), desc="Drawing shapes", unit="image"):
            image, objects = draw_shapes(seed, index, image_size, min_objects, max_objects, max_overlap)
            name = f"images/{index:06d}.png"
            image.save(partial / name)
            records.append(DetectionRecord((name,), image_size, image_size, tuple(objects)))
        write_records(records, partial / "shapes.jsonl")
        if out.exists():
            out.rmdir()
        shutil.move(partial, out)
    return out / "shapes.jsonl"


def draw_shapes(
    seed: int,
    index: int,
    image_size: int = 128,
    min_objects: int = 1,
    max_objects: int = 4,
    max_overlap: float = 0.1,
) -> tuple[Image.Image, list[DetectionObject]]:
    """
    Draws picture `index` of a dataset of coloured shapes; see [`create_shapes`] for the options.

    Returns:
        `tuple[PIL.Image.Image, list[DetectionObject]]`: the RGB picture and its objects from top to bottom and left to
        right, with tight boxes in pixels.
    """
    _check_options(seed, image_size, min_objects, max_objects, max_overlap)
    # Unlike `numpy.random.Generator`, `RandomState` has a stream that NumPy promises never to change.
    random = np.random.RandomState([seed, index])
    for _ in range(_RESTARTS):
        count = _integer(random, min_objects, max_objects)
        boxes, masks = _place(random, count, image_size, max_overlap)
        if len(boxes) >= min_objects:
            break
    else:
        raise ValueError(
            f"min_objects = {min_objects}: so many objects do not fit on {image_size} x {image_size} pixels with "
            f"max_overlap = {max_overlap}. Lower min_objects, or raise image_size or max_overlap."
        )
    canvas = _background(random, image_size)
    objects = []
    for box, (shape, mask) in zip(boxes, masks, strict=True):
        color = _pick(random, tuple(COLORS))
        jitter = random.randint(-_COLOR_JITTER, _COLOR_JITTER + 1, size=3, dtype=np.int64)
        x1, y1, x2, y2 = box
        canvas[y1:y2, x1:x2][mask] = np.add(COLORS[color], jitter)
        objects.append(DetectionObject(desc=f"{color} {shape}", bbox_2d=box))
    canvas += random.randint(-_NOISE, _NOISE + 1, size=canvas.shape, dtype=np.int64)
    objects.sort(key=lambda item: (item.bbox_2d[1], item.bbox_2d[0], item.bbox_2d, item.desc))
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), objects


def _check_options(seed: int, image_size: int, min_objects: int, max_objects: int, max_overlap: float) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: must be an integer from 0 to 2^32 - 1.")
    if image_size < 32:
        raise ValueError(f"image_size = {image_size}: must be at least 32 pixels.")
    if not 0 <= min_objects <= max_objects:
        raise ValueError(
            f"min_objects = {min_objects}, max_objects = {max_objects}: need 0 <= min_objects <= max_objects."
        )
    if not 0 <= max_overlap <= 1:
        raise ValueError(f"max_overlap = {max_overlap}: must be in [0, 1].")


def _place(
    random: np.random.RandomState, count: int, image_size: int, max_overlap: float
) -> tuple[list[tuple[int, int, int, int]], list[tuple[str, np.ndarray]]]:
    """Places up to `count` shapes; returns their boxes, and for each its shape and mask, in drawing order."""
    longest = max(math.floor(image_size * min(0.45, 0.9 / math.sqrt(max(count, 1)))), 8)
    shortest = max(min(image_size // 7, longest // 2), 6)
    owner = np.full((image_size, image_size), -1)
    boxes, masks = [], []
    for _ in range(count):
        for _ in range(_PLACEMENTS):
            shape = _pick(random, SHAPES)
            width = _integer(random, shortest, longest)
            height = _integer(random, shortest, longest) if shape == "triangle" else width
            x1, y1 = _integer(random, 0, image_size - width), _integer(random, 0, image_size - height)
            box = (x1, y1, x1 + width, y1 + height)
            if any(_overlap(box, other) > max_overlap for other in boxes):
                continue
            mask = _rasterize(shape, width, height)
            covered = owner[y1 : y1 + height, x1 : x1 + width]
            before = covered.copy()
            covered[mask] = len(boxes)
            if all(_is_tight(owner, number, boxes[number]) for number in set(before[mask].tolist()) - {-1}):
                boxes.append(box)
                masks.append((shape, mask))
                break
            covered[...] = before
    return boxes, masks


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other))
    return max(width, 0) * max(height, 0) / min(areas)


def _is_tight(owner: np.ndarray, number: int, box: tuple[int, int, int, int]) -> bool:
    """Whether the visible pixels of object `number` touch all four sides of its box."""
    x1, y1, x2, y2 = box
    inside = owner[y1:y2, x1:x2] == number
    return all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def _rasterize(shape: str, width: int, height: int) -> np.ndarray:
    """Mask of shape `(height, width)` whose pixels touch all four sides."""
    across = 2 * np.arange(width) + 1 - width  # twice the distance of pixel centres from the middle
    down = (2 * np.arange(height) + 1 - height)[:, None]
    if shape == "circle":
        return (across * height) ** 2 + (down * width) ** 2 <= (width * height) ** 2
    if shape == "square":
        return np.ones((height, width), dtype=bool)
    rows = np.arange(1, height + 1)[:, None]
    return np.abs(across) * height <= np.maximum(width * rows, height)  # a tip of at least one pixel


def _background(random: np.random.RandomState, size: int) -> np.ndarray:
    """A gradient between four muted corner colours, int64 of shape `(size, size, 3)`."""
    corners = random.randint(0, _MAX_BACKGROUND + 1, size=(2, 2, 3), dtype=np.int64)
    up = np.arange(size)
    weights = np.stack([size - 1 - up, up])  # (2, size)
    return np.einsum("iy,jx,ijc->yxc", weights, weights, corners) // (size - 1) ** 2


def _integer(random: np.random.RandomState, low: int, high: int) -> int:
    """A random integer from `low` to `high`, both included; the explicit dtype keeps the stream equal everywhere."""
    return int(random.randint(low, high + 1, dtype=np.int64))


def _pick(random: np.random.RandomState, choices: tuple[str, ...]) -> str:
    return choices[_integer(random, 0, len(choices) - 1)]

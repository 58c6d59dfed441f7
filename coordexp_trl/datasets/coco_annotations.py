# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reads annotation files in the form of COCO instances, which LVIS shares, and checks that their ids fit together."""

import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.conversion import read_json


@dataclass
class CocoAnnotations:
    """
    The content of an annotation file.

    Args:
        path (`Path`):
            The file.
        images (`list[dict]`):
            Entries of its `images`, in the order of the file; `id` and the paths are checked.
        categories (`dict[int, dict]`):
            Entries of its `categories` by id; names are checked, runs of white space in them are one space.
        objects (`dict[int | str, list[tuple[str, dict]]]`):
            For each image id the entries of `annotations` that refer to it, in the order of the file, each with its
            place for messages; ids of image and category are checked.
        notes (`Counter[str]`):
            What was found and tolerated.
        repeated (`int`):
            Number of annotations left out because an equal one with the same id came before.
    """

    path: Path
    images: list[dict]
    categories: dict[int, dict]
    objects: dict[int | str, list[tuple[str, dict]]]
    notes: Counter[str]
    repeated: int

    def image_place(self, index: int) -> str:
        """Where the image entry at `index` stands, for messages."""
        return f"{self.path}: images[{index}] (id {self.images[index]['id']!r})"


def read_annotations(path: str | Path) -> CocoAnnotations:
    """
    Reads a file of COCO instances or LVIS annotations.

    Args:
        path (`str` or `Path`):
            The JSON file.

    Returns:
        [`CocoAnnotations`]

    Raises:
        `ValueError`: if the file is not of that form, an id of an image or category is missing or not unique, a
            category has no name, or an annotation refers to an unknown image or category.
    """
    return parse_annotations(path, read_json(path, "annotations"))


def parse_annotations(path: str | Path, content: Any) -> CocoAnnotations:
    """Checks what a file of annotations holds, see [`read_annotations`]."""
    path = Path(path)
    _check_form(path, content)
    notes: Counter[str] = Counter()
    categories = read_categories(path, content["categories"])
    objects: dict[int | str, list[tuple[str, dict]]] = {}
    for index, image in enumerate(content["images"]):
        place = f"{path}: images[{index}]"
        image_id = _id(image, "id", place, (int, str))
        if image_id in objects:
            first = next(other for other, entry in enumerate(content["images"]) if entry["id"] == image_id)
            raise ValueError(f"{place}.id = {image_id!r}: images[{first}] has this id already. Ids must be unique.")
        objects[image_id] = []
    repeated = 0
    seen: dict[int | str, list[dict]] = {}
    for index, annotation in enumerate(content["annotations"]):
        place = f"{path}: annotations[{index}]"
        if not isinstance(annotation, dict):
            raise ValueError(f"{place} = {shorten(annotation)}: must be a JSON object.")
        annotation_id = annotation.get("id")
        if isinstance(annotation_id, (int, str)):
            place += f" (id {annotation_id!r})"
            same_id = seen.setdefault(annotation_id, [])
            if annotation in same_id:
                repeated += 1
                continue
            if same_id:
                notes["annotation id used twice"] += 1
            same_id.append(annotation)
        if "segments_info" in annotation:
            raise ValueError(f"{place}: has segments_info: a panoptic file. Give the instances file.")
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image_id, (int, str)) or image_id not in objects:
            raise ValueError(f"{place}.image_id = {shorten(image_id)}: no image has this id.")
        if not isinstance(category_id, int) or category_id not in categories:
            remedy = "Give the instances file." if "caption" in annotation else _known(categories)
            raise ValueError(f"{place}.category_id = {shorten(category_id)}: no category has this id. {remedy}")
        objects[image_id].append((place, annotation))
    return CocoAnnotations(path, content["images"], categories, objects, notes, repeated)


def finite_numbers(values: Any) -> list[float] | None:
    """Returns a list of numbers as floats, infinite where they are too large for one; `None` if it is no such list."""
    if not isinstance(values, list) or not {int, float}.issuperset(map(type, values)):
        return None
    try:
        return list(map(float, values))
    except OverflowError:  # an integer of hundreds of digits
        return [math.inf if abs(value) > sys.float_info.max else float(value) for value in values]


def _check_form(path: Path, content: Any) -> None:
    if isinstance(content, list):
        results = bool(content) and isinstance(content[0], dict) and "score" in content[0]
        kind = "a list of results (predictions)" if results else "a list"
        raise ValueError(f"{path}: holds {kind}, must be one object with images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list):
            state = "is missing" if value is None else f"= {shorten(value)}: must be a list"
            raise ValueError(f"{path}: {key} {state}. Give a file of COCO instances or LVIS annotations.")
    if not content["images"]:
        raise ValueError(f"{path}: images is empty, there is nothing to convert.")


def read_categories(path: Path, entries: list) -> dict[int, dict]:
    """Returns the entries of `categories` by id, ids and names checked; runs of white space in names are one space."""
    categories = {}
    for index, entry in enumerate(entries):
        place = f"{path}: categories[{index}]"
        category_id = _id(entry, "id", place, (int,))
        if category_id in categories:
            raise ValueError(f"{place}.id = {category_id}: another category has this id. Ids must be unique.")
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{place}.name = {shorten(name)}: must be a name that is not blank.")
        categories[category_id] = {**entry, "name": " ".join(name.split())}
    return categories


def _id(entry: Any, key: str, place: str, kinds: tuple[type, ...]) -> int | str:
    if not isinstance(entry, dict):
        raise ValueError(f"{place} = {shorten(entry)}: must be a JSON object.")
    value = entry.get(key)
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join({int: "an integer", str: "text"}[kind] for kind in kinds)
        raise ValueError(f"{place}.{key} = {shorten(value)}: must be {expected}.")
    return value


def _known(categories: dict[int, dict]) -> str:
    ids = sorted(categories)
    return f"The file has {len(ids)} categories" + (f", ids {ids[0]} to {ids[-1]}." if ids else ".")

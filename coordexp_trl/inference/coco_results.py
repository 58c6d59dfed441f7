# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Predictions as COCO results: a list of boxes with the ids of images and categories."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco_annotations import read_categories
from coordexp_trl.datasets.coco_ids import are_image_ids, number_categories
from coordexp_trl.datasets.coco_images import image_names
from coordexp_trl.datasets.conversion import read_json
from coordexp_trl.matching import normalize_desc
from coordexp_trl.predictions import ImagePrediction
from coordexp_trl.records import DetectionRecord

_SEVERAL = object()  # a file name that several images have


@dataclass
class CocoIds:
    """
    The ids of a results file.

    Args:
        images (`dict[str, int]`):
            Id of each image by the path that the predictions name.
        categories (`dict[str, int]`):
            Id of each category by name.
        notes (`Counter[str]`):
            What has no id and is left out, and how ids were chosen.
    """

    images: dict[str, int | str]
    categories: dict[str, int]
    notes: Counter[str] = field(default_factory=Counter)


def ids_of_records(records: Iterable[DetectionRecord], predictions: Sequence[ImagePrediction]) -> CocoIds:
    """
    Chooses ids as `coordexp data export coco` does: images keep `metadata.image_id` if all have an integer of their
    own, else they are numbered from 1 in data order; descriptions keep `metadata.category_ids` of the records, the
    others get the next free numbers in alphabetical order.

    Args:
        records (`Iterable[DetectionRecord]`):
            All records of the data, in their order.
        predictions (`Sequence[ImagePrediction]`):
            Predictions of these.

    Returns:
        [`CocoIds`]
    """
    names, image_ids = [], []
    descs: dict[str, str] = {}  # the spelling of each description that comes first
    descs_of: dict[int, set[str]] = {}
    for record in records:
        metadata = record.metadata or {}
        names.append(record.images[0])
        image_ids.append(metadata.get("image_id"))
        category_ids = metadata.get("category_ids")
        known = isinstance(category_ids, list) and len(category_ids) == len(record.objects)
        for number, item in enumerate(record.objects):
            desc = descs.setdefault(normalize_desc(item.desc), item.desc)
            if known and type(category_ids[number]) is int:
                descs_of.setdefault(category_ids[number], set()).add(desc)
    for prediction in predictions:
        for item in prediction.objects:
            descs.setdefault(normalize_desc(item.desc), item.desc)
    notes: Counter[str] = Counter()
    if not are_image_ids(image_ids):
        image_ids = range(1, len(names) + 1)
    categories = number_categories(descs.values(), descs_of)
    if categories is None:
        notes["categories numbered anew: category_ids of metadata contradict each other"] = len(descs)
        categories = number_categories(descs.values(), {})
    return CocoIds(dict(zip(names, image_ids, strict=True)), categories, notes)


@dataclass
class CocoFile:
    """
    The ids that a COCO or LVIS file gives.

    Args:
        categories (`dict[str, int]`):
            Id of each category by name.
        images (`dict[str, Any]`):
            Id of each image by the ends of its path, `"val/a.jpg"` and `"a.jpg"`; empty if the file has no images.
    """

    categories: dict[str, int]
    images: dict[str, Any]

    def apply(self, ids: CocoIds) -> CocoIds:
        """Returns ids with those of the file in their place; an image that the file does not have gets none."""
        if not self.images:
            return CocoIds(ids.images, self.categories)
        images, notes = {}, Counter()
        for name in ids.images:
            found = next((self.images[end] for end in _path_ends(name) if end in self.images), None)
            if found is None or found is _SEVERAL:
                notes["images left out of COCO results: --categories has none, or several, of that file name"] += 1
            else:
                images[name] = found
        return CocoIds(images, self.categories, notes)


def read_coco_file(path: str | Path) -> CocoFile:
    """
    Reads the ids of a COCO or LVIS file.

    Args:
        path (`str` or `Path`):
            JSON file with `categories`, and perhaps `images`.

    Returns:
        [`CocoFile`]

    Raises:
        `ValueError`: if the file is not of that form.
    """
    path = Path(path)
    content = read_json(path, "categories")
    if not isinstance(content, dict) or not isinstance(content.get("categories"), list):
        raise ValueError(f"{path}: categories is missing, or no list. Give a file of COCO or LVIS annotations.")
    categories = {entry["name"]: number for number, entry in read_categories(path, content["categories"]).items()}
    images: dict[str, Any] = {}
    for index, entry in enumerate(content.get("images") or []):
        place = f"{path}: images[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            raise ValueError(f"{place} = {shorten(entry)}: must be a JSON object with an id.")
        for end in {end for name in image_names(entry, place) for end in _path_ends(name)}:
            images[end] = entry["id"] if images.get(end, entry["id"]) == entry["id"] else _SEVERAL
    return CocoFile(categories, images)


def coco_results(predictions: Iterable[ImagePrediction], ids: CocoIds) -> list[dict[str, Any]]:
    """
    Args:
        predictions (`Iterable[ImagePrediction]`):
            The predictions.
        ids ([`CocoIds`]):
            Ids; what is left out for want of one is counted in its notes.

    Returns:
        `list[dict]`: The results, `bbox` as x, y, width and height in pixels with inverted corners sorted. An object
        without score has 1.0.
    """
    category_of = {normalize_desc(name): number for name, number in ids.categories.items()}
    results = []
    for prediction in predictions:
        image_id = ids.images.get(prediction.image)
        if image_id is None:
            continue
        for item in prediction.objects:
            category_id = category_of.get(normalize_desc(item.desc))
            if category_id is None:
                ids.notes["objects left out of COCO results: no category of that name"] += 1
                continue
            if item.score is None:
                ids.notes["COCO results with score 1.0: the model gave none"] += 1
            x1, y1, x2, y2 = item.bbox_2d
            left, top = min(x1, x2), min(y1, y2)
            bbox = [left, top, round(max(x1, x2) - left, 3), round(max(y1, y2) - top, 3)]
            score = 1.0 if item.score is None else item.score
            results.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})
    return results


def _path_ends(name: str) -> list[str]:
    """The path, and its ends down to the file name."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ["/".join(parts[start:]).lstrip("/") for start in range(len(parts)) if parts[start] != "/"]

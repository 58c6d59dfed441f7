# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading ground truth (GT): records, COCO instances or LVIS annotations, told apart by what the file holds."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid, shorten
from coordexp_trl.datasets.coco_annotations import CocoAnnotations, parse_annotations
from coordexp_trl.datasets.coco_images import image_names
from coordexp_trl.datasets.coco_objects import read_bbox
from coordexp_trl.datasets.lvis import FEDERATED_KEYS, check_federated
from coordexp_trl.datasets.segmentation import polygon_area, segmentation_box
from coordexp_trl.evaluation.inputs.contents import JSON_LINES, is_line, read_content
from coordexp_trl.records import DetectionRecord, iter_records


@dataclass(slots=True)
class TruthImage:
    """
    GT of one image.

    Args:
        name (`str`):
            The image as the file names it.
        place (`str`):
            Where it stands, for messages.
        width (`int`), height (`int`):
            Size in pixels.
        boxes (`numpy.ndarray`):
            Boxes of shape `(M, 4)`, xyxy in pixels.
        descs (`Sequence[str]`):
            Their descriptions.
        crowd (`Sequence[bool]`):
            Which of them are regions of many objects; empty if none is.
        areas (`Sequence[float]`):
            Their areas in square pixels; empty if they are those of the boxes.
        path (`str`, *optional*):
            Absolute path of the image file.
        image_id (`int` or `str`, *optional*):
            Its id.
        other_names (`Sequence[str]`):
            Further paths that name it.
        absent (`Sequence[str]`, *optional*):
            Federated GT: descriptions known to be absent. `None` if the GT is complete.
        incomplete (`Sequence[str]`):
            Federated GT: descriptions of which not every object is annotated.
    """

    name: str
    place: str
    width: int
    height: int
    boxes: np.ndarray
    descs: Sequence[str]
    crowd: Sequence[bool] = ()
    areas: Sequence[float] = ()
    path: str | None = None
    image_id: int | str | None = None
    other_names: Sequence[str] = ()
    absent: Sequence[str] | None = None
    incomplete: Sequence[str] = ()


@dataclass
class GroundTruth:
    """
    GT of a data set.

    Args:
        path (`str`):
            The file.
        kind (`str`):
            `"records"`, `"COCO"` or `"LVIS"`.
        images (`list[TruthImage]`):
            The images in the order of the file.
        categories (`dict[int, str]`):
            Name of each category id.
        is_closed (`bool`):
            Whether the file lists all its categories, so that one that is not there cannot be meant.
        frequencies (`dict[str, str]`):
            `"r"`, `"c"` or `"f"` for each category of federated GT; empty for other GT.
        notes (`Counter[str]`):
            What was treated how.
    """

    path: str
    kind: str
    images: list[TruthImage]
    categories: dict[int, str] = field(default_factory=dict)
    is_closed: bool = False
    frequencies: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)


def read_ground_truth(path: str | Path, image_root: str | Path | None = None, num_bins: int = 1000) -> GroundTruth:
    """
    Reads GT.

    Args:
        path (`str` or `Path`):
            JSONL of records, in pixels or coordinate tokens, or a JSON file of COCO instances or LVIS annotations.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to that of a file of records; with COCO and LVIS the
            place of the images is unknown without it.
        num_bins (`int`, *optional*, defaults to `1000`):
            Bins of coordinate tokens.

    Returns:
        [`GroundTruth`]

    Raises:
        `ValueError`: if the file is malformed or an image stands in it twice.
    """
    content = read_content(path, "ground_truth")
    if content is None:
        raise ValueError(f"ground_truth = {str(path)!r}: the file is empty.")
    if content is JSON_LINES or is_line(content):
        truth = _from_records(path, image_root, CoordinateGrid(num_bins))
    else:
        truth = _from_annotations(parse_annotations(path, content), image_root)
    places: dict[str, str] = {}
    for image in truth.images:
        first = places.setdefault(os.path.normpath(image.name), image.place)
        if first != image.place:
            raise ValueError(f"{image.place}: the image {image.name!r} is that of {first} too. Join or remove one.")
    return truth


def _from_records(path: str | Path, image_root: str | Path | None, grid: CoordinateGrid) -> GroundTruth:
    rows, names, frequencies = [], {}, {}
    for record in tqdm(iter_records(path, image_root, grid), desc="Reading ground truth", delay=2, leave=False):
        metadata = record.metadata or {}
        for item, number in zip(record.objects, _of_objects(record, "category_ids"), strict=False):
            names[number] = item.desc
        for item, frequency in zip(record.objects, _of_objects(record, "frequencies"), strict=False):
            frequencies[item.desc] = frequency
        rows.append((_from_record(record, grid), [metadata.get(key) for key in FEDERATED_KEYS]))
    if all(isinstance(ids, list) for _, federated in rows for ids in federated):
        for image, federated in rows:
            # A category that no record shows has no name here; it has no average precision either
            image.absent, image.incomplete = ([names[i] for i in ids if i in names] for ids in federated)
    else:
        frequencies = {}
    return GroundTruth(str(path), "records", [image for image, _ in rows], names, frequencies=frequencies)


def _of_objects(record: DetectionRecord, key: str) -> list:
    """The values of the metadata that belong to the objects; none if their number differs."""
    values = (record.metadata or {}).get(key)
    return values if isinstance(values, list) and len(values) == len(record.objects) else []


def _from_record(record: DetectionRecord, grid: CoordinateGrid) -> TruthImage:
    width, height, objects = record.width, record.height, record.objects
    if objects and all(item.bins is not None and len(item.bins) == 4 for item in objects):
        boxes = grid.bins_to_pixels([item.bins for item in objects], width, height)
    else:
        boxes = np.array([item.pixel_box(width, height, grid) for item in objects], dtype=float).reshape(-1, 4)
    areas: Sequence[float] = ()
    if any(item.poly is not None for item in objects):
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).tolist()
        areas = [
            side if item.poly is None else polygon_area(list(item.poly))
            for side, item in zip(sides, objects, strict=True)
        ]
    return TruthImage(
        record.images[0],
        record.place,
        width,
        height,
        boxes,
        [item.desc for item in objects],
        areas=areas,
        path=os.path.abspath(record.image_path),
        image_id=(record.metadata or {}).get("image_id"),
    )


def _from_annotations(annotations: CocoAnnotations, image_root: str | Path | None) -> GroundTruth:
    is_federated = any(key in image for image in annotations.images for key in FEDERATED_KEYS)
    frequencies = check_federated(annotations) if is_federated else {}
    descs = {number: category["name"] for number, category in annotations.categories.items()}
    truth = GroundTruth(
        path=str(annotations.path),
        kind="LVIS" if is_federated else "COCO",
        images=[],
        categories=descs,
        is_closed=True,
        frequencies={descs[number]: frequency for number, frequency in frequencies.items()},
        notes=+annotations.notes,
    )
    truth.notes["repeated annotations in the ground truth, left out"] += annotations.repeated
    for index, entry in enumerate(annotations.images):
        image = _from_entry(entry, annotations.image_place(index), annotations.objects[entry["id"]], descs, truth)
        image.path = _find_file([image.name, *image.other_names], image_root)
        if is_federated:
            image.absent, image.incomplete = ([descs[i] for i in entry[key] if i in descs] for key in FEDERATED_KEYS)
        truth.images.append(image)
    truth.notes = +truth.notes
    return truth


def _from_entry(
    entry: dict, place: str, items: list[tuple[str, dict]], descs: dict[int, str], truth: GroundTruth
) -> TruthImage:
    for key in ("width", "height"):
        if type(entry.get(key)) is not int or entry[key] < 1:
            raise ValueError(f"{place}.{key} = {shorten(entry.get(key))}: must be a positive integer, in pixels.")
    names = image_names(entry, place)
    boxes, areas = [], []
    for item_place, item in items:
        box = _box(item, item_place, entry["width"], entry["height"])
        boxes.append(box)
        areas.append(_area(item, item_place, box))
        truth.notes["ground truth marked ignore without iscrowd, compared like any other"] += bool(
            item.get("ignore") and not item.get("iscrowd")
        )
    crowd = [bool(item.get("iscrowd")) for _, item in items]
    return TruthImage(
        names[0],
        place,
        entry["width"],
        entry["height"],
        np.array(boxes, dtype=float).reshape(-1, 4),
        [descs[item["category_id"]] for _, item in items],
        crowd if any(crowd) else (),
        areas,
        image_id=entry["id"],
        other_names=names[1:],
    )


def _box(item: dict, place: str, width: int, height: int) -> tuple[float, float, float, float]:
    bbox = read_bbox(item, place)
    if bbox is None:
        box = segmentation_box(item.get("segmentation"), width, height, place)
        if box is None:
            raise ValueError(f"{place}: has neither bbox nor segmentation. Repair or remove the annotation.")
        return box
    x, y, w, h = bbox
    if not all(map(math.isfinite, (x, y, x + w, y + h))):
        raise ValueError(f"{place}.bbox = {shorten(list(bbox))}: must be finite. Repair or remove the annotation.")
    if w < 0 or h < 0:
        raise ValueError(f"{place}.bbox = {shorten(list(bbox))}: width and height must not be negative.")
    return (x, y, x + w, y + h)


def _area(item: dict, place: str, box: tuple[float, float, float, float]) -> float:
    area: Any = item.get("area")
    if area is None:
        return (box[2] - box[0]) * (box[3] - box[1])
    if isinstance(area, bool) or not isinstance(area, int | float) or not math.isfinite(area):
        raise ValueError(f"{place}.area = {shorten(area)}: must be a finite number.")
    return float(area)


def _find_file(names: list[str], image_root: str | Path | None) -> str | None:
    """The absolute path of an image whose place is known."""
    if image_root is None:
        return names[0] if os.path.isabs(names[0]) else None
    paths = [os.path.abspath(os.path.join(image_root, name)) for name in names]
    return next((path for path in paths if os.path.isfile(path)), paths[0])

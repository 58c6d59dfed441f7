# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts COCO instances to detection records."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.datasets.coco_annotations import CocoAnnotations, read_annotations
from coordexp_trl.datasets.coco_images import FoundImage, find_images
from coordexp_trl.datasets.coco_objects import GEOMETRIES, convert_annotation, read_bbox, skip_reason
from coordexp_trl.datasets.conventions import MIN_BOXES, suspect_convention
from coordexp_trl.datasets.conversion import ConversionReport, image_reference
from coordexp_trl.datasets.renames import Renames
from coordexp_trl.records import DetectionRecord, write_records

_NEARLY_ALL = 0.99  # part of the boxes that fit as xyxy
_LEAVING = 0.1  # part of the boxes that leave their image as xywh


def convert_coco(
    annotations: str | Path,
    images: str | Path | None,
    out: str | Path,
    geometry: str = "box",
    rename: str | Path | None = None,
    skip_unannotated: bool = False,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts a file of COCO instances to a JSONL file of detection records in pixels.

    Records follow the order of the images in the file, objects that of their annotations; `metadata` holds the
    `image_id` and the `category_ids` of the objects. Boxes and polygons are clipped to the image. Crowd regions,
    annotations marked `ignore`, and boxes without area are left out; all is counted. The output appears complete or
    not at all.

    Args:
        annotations (`str` or `Path`):
            The JSON file.
        images (`str` or `Path`, *optional*):
            Folder of the images. The file of an image is `file_name`, else the last two parts or the last part of the
            path of its `coco_url`. With `None` nothing is checked: paths and sizes are those of the JSON file.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        geometry (`str`, *optional*, defaults to `"box"`):
            What is written of an annotation: `"box"` its box; `"polygon"` its polygon, but its box if it has several
            or none; `"parts"` each of its polygons as an object of its own, its box if it has none. The report counts
            such parts as objects, in and out.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps category names to descriptions, see [`Renames`].
        skip_unannotated (`bool`, *optional*, defaults to `False`):
            Whether to leave out images of which no object is written, rather than to write an empty record.
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether to leave out images whose file is missing, rather than to stop.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether to stop if the boxes seem to be something else than x, y, width, height in pixels.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if the file is malformed, an image is missing or has another size than stated, or the boxes seem
            to follow another convention. The message names file, field and value.
    """
    return convert_annotations(
        read_annotations(annotations),
        images,
        out,
        geometry=geometry,
        rename=rename,
        skip_unannotated=skip_unannotated,
        skip_missing_images=skip_missing_images,
        check_convention=check_convention,
    )


def convert_annotations(
    annotations: CocoAnnotations,
    images: str | Path | None,
    out: str | Path,
    geometry: str,
    rename: str | Path | None,
    skip_unannotated: bool,
    skip_missing_images: bool,
    check_convention: bool,
    more_metadata: Callable[[dict, list[int]], dict] | None = None,
) -> ConversionReport:
    """
    Converts annotations that were read, see [`convert_coco`].

    Args:
        more_metadata (`Callable`, *optional*):
            Called with the entry of an image and the category ids of its objects; returns what else to keep in
            `metadata`.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry = {geometry!r}: must be one of {', '.join(GEOMETRIES)}.")
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out = {str(out)!r}: is a folder. Give the path of a JSONL file.")
    renames = Renames(rename)
    descs = {category_id: renames(category["name"]) for category_id, category in annotations.categories.items()}
    renames.check()
    found = find_images(annotations, images, skip_missing_images)
    if check_convention:
        _check_convention(annotations, found)
    report = ConversionReport(notes=+annotations.notes)
    if annotations.repeated:
        report.objects_in = report.dropped["repeated annotation"] = annotations.repeated

    def records() -> Iterator[DetectionRecord]:
        pairs = zip(annotations.images, found, strict=True)
        for entry, image in tqdm(pairs, desc="Converting", total=len(found), unit="image"):
            items = annotations.objects[entry["id"]]
            if image is None:
                report.notes["image missing"] += 1
                report.objects_in += len(items)
                report.dropped["image missing"] += len(items)
                continue
            objects, category_ids = [], []
            for place, item in items:
                category_id = item["category_id"]
                converted = convert_annotation(
                    item, place, descs[category_id], image.width, image.height, geometry, report
                )
                objects += converted
                category_ids += [category_id] * len(converted)
            if not objects:
                report.notes["image whose objects were all left out" if items else "image without annotations"] += 1
                if skip_unannotated:
                    report.notes["image without objects, left out"] += 1
                    continue
            metadata = {"image_id": entry["id"], "category_ids": category_ids}
            if more_metadata is not None:
                metadata |= more_metadata(entry, category_ids)
            reference = image.path.as_posix() if images is None else image_reference(image.path, out)
            yield DetectionRecord((reference,), image.width, image.height, tuple(objects), metadata=metadata)

    report.images = write_records(records(), out)
    report.dropped, report.notes = +report.dropped, +report.notes
    report.check()
    return report


def _check_convention(annotations: CocoAnnotations, found: list[FoundImage | None]) -> None:
    """Raises `ValueError` if the boxes of all single objects seem to be something else than x, y, w, h in pixels."""
    values, sizes = [], []
    for entry, image in zip(annotations.images, found, strict=True):
        if image is None:
            continue
        for place, item in annotations.objects[entry["id"]]:
            bbox = read_bbox(item, place) if skip_reason(item) is None else None
            if bbox is not None:
                values.append(bbox)
                sizes.append((image.width, image.height))
    boxes, sizes = np.array(values, dtype=float).reshape(-1, 4), np.array(sizes, dtype=float).reshape(-1, 2)
    finite = np.isfinite(boxes).all(1)
    boxes, sizes = boxes[finite], sizes[finite]
    if len(boxes) < MIN_BOXES:
        return
    as_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    leaving = (as_xyxy[:, 2:] > sizes + 1).any(1).mean()
    fits = (boxes >= -1).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + 1).all(1)
    if boxes.min() >= 0 and boxes.max() <= 1:
        suspicion = "the boxes look normalised: every value lies between 0 and 1. Multiply them by width and height."
    elif leaving >= _LEAVING and fits.mean() >= _NEARLY_ALL:
        suspicion = (
            f"the boxes look like x1, y1, x2, y2: as x, y, width, height {leaving:.0%} leave their image. Subtract "
            "x1, y1 from x2, y2."
        )
    else:
        suspicion = suspect_convention(as_xyxy, sizes)
    if suspicion is not None:
        raise ValueError(
            f"{annotations.path}: bbox of {len(boxes)} annotations: {suspicion} To convert them all the same, switch "
            "this check off (check_convention=False, --no-convention-check)."
        )

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Turns one annotation of COCO or LVIS into the objects of a record."""

import math
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco_annotations import finite_numbers
from coordexp_trl.datasets.conversion import ConversionReport, clip_box
from coordexp_trl.datasets.segmentation import DECIMALS, clip_polygon, polygon_parts, segmentation_box
from coordexp_trl.records import DetectionObject, enclosing_box

GEOMETRIES = ("box", "polygon", "parts")


def skip_reason(annotation: dict) -> str | None:
    """Why an annotation is no single object to learn: `"crowd"` (a region of many) or `"ignore"`, else `None`."""
    if annotation.get("iscrowd"):
        return "crowd"
    return "ignore" if annotation.get("ignore") else None


def read_bbox(annotation: dict, place: str) -> tuple[float, float, float, float] | None:
    """
    Reads the `bbox` of an annotation, x, y, width, height.

    Args:
        annotation (`dict`):
            The annotation.
        place (`str`):
            Where it stands, for messages.

    Returns:
        `tuple[float, float, float, float]` or `None`: the four values, perhaps not finite; `None` if there is none.

    Raises:
        `ValueError`: if it is not four numbers.
    """
    bbox: Any = annotation.get("bbox")
    if bbox is None or bbox == []:
        return None
    values = finite_numbers(bbox)
    if values is None or len(values) != 4:
        raise ValueError(f"{place}.bbox = {shorten(bbox)}: must be four numbers, x, y, width, height.")
    return tuple(values)


def convert_annotation(
    annotation: dict, place: str, desc: str, width: int, height: int, geometry: str, report: ConversionReport
) -> list[DetectionObject]:
    """
    Converts an annotation, clipped to its image, and counts what came in, what goes out and what is left out.

    Args:
        annotation (`dict`):
            The annotation.
        place (`str`):
            Where it stands, for messages.
        desc (`str`):
            The description.
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.
        geometry (`str`):
            `"box"`, `"polygon"` or `"parts"`, see [`convert_coco`].
        report ([`ConversionReport`]):
            Where to count.

    Returns:
        `list[DetectionObject]`: the objects, at most one unless `geometry` is `"parts"`.

    Raises:
        `ValueError`: if a value is malformed. The message names the place, the field and the value.
    """
    box, problem = _box(annotation, place, width, height, report)
    if problem is not None:
        report.objects_in += 1
        report.dropped[problem] += 1
        return []
    polygons = [] if geometry == "box" else _polygons(annotation, place, width, height, report)
    if geometry == "polygon" and len(polygons) > 1:
        report.notes["box written for an object of several polygons"] += 1
        polygons = []
    if len(polygons) > 1:
        report.notes["annotation split into its polygons"] += 1
    objects = [DetectionObject(desc, poly=polygon) for polygon in polygons] or [DetectionObject(desc, bbox_2d=box)]
    report.objects_in += len(objects)
    report.objects_out += len(objects)
    return objects


def _box(
    annotation: dict, place: str, width: int, height: int, report: ConversionReport
) -> tuple[tuple[float, ...], str | None]:
    """The box, xyxy, clipped, and why it cannot be used."""
    reason = skip_reason(annotation)
    if reason is not None:
        return (), reason
    bbox = read_bbox(annotation, place)
    if bbox is None:
        box = segmentation_box(annotation.get("segmentation"), width, height, place)
        if box is None:
            return (), "neither box nor segmentation"
        report.notes["box taken from the segmentation"] += 1
    else:
        x, y, w, h = bbox
        box = (x, y, x + w, y + h)
        if not all(map(math.isfinite, box)):
            return (), "coordinate not a finite number"
        box = (x, y, round(x + w, DECIMALS), round(y + h, DECIMALS))
    clipped, problem = clip_box(box, width, height)
    if problem is None and clipped != box:
        report.notes["box clipped to the image"] += 1
    return clipped, problem


def _polygons(annotation: dict, place: str, width: int, height: int, report: ConversionReport) -> list[list[float]]:
    segmentation = annotation.get("segmentation")
    parts, unusable = polygon_parts(segmentation, place)
    report.notes["polygon without area or not finite, left out"] += unusable
    clipped = [polygon for part in parts for polygon in clip_polygon(part, width, height)]
    if clipped != parts:
        report.notes["polygons clipped to the image"] += 1
    clipped = [polygon for polygon in clipped if _has_area(polygon)]
    if not clipped:
        kind = "an RLE mask" if isinstance(segmentation, dict) else "an object without polygon"
        report.notes[f"box written for {kind}"] += 1
    return clipped


def _has_area(polygon: list[float]) -> bool:
    x1, y1, x2, y2 = enclosing_box(polygon)
    return x2 > x1 and y2 > y1

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Segmentations of COCO annotations: polygons of one or more parts, or run-length encoded (RLE) masks."""

from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco_annotations import finite_numbers
from coordexp_trl.records import enclosing_box

DECIMALS = 9  # of a pixel; takes the noise out of sums such as 299.46 + 71.72 and nothing else
_FARTHEST = 1e9  # pixels; with far larger coordinates GEOS fails or computes for ever


def polygon_parts(segmentation: Any, place: str) -> tuple[list[list[float]], int]:
    """
    Reads the polygons of a segmentation.

    Args:
        segmentation:
            A list of polygons `[x1, y1, x2, y2, ...]`, an RLE mask, or nothing.
        place (`str`):
            Where it stands, for messages.

    Returns:
        `tuple[list[list[float]], int]`: the polygons, a last point that repeats the first one left out, and how many
        were left out because they have fewer than 3 points, no area, or coordinates that are not finite or beyond a
        billion pixels. An RLE mask has no polygons.

    Raises:
        `ValueError`: if the segmentation is neither.
    """
    if not segmentation or isinstance(segmentation, dict):
        return [], 0
    parts, unusable = [], 0
    for index, values in enumerate(segmentation if isinstance(segmentation, list) else [None]):
        points = finite_numbers(values)
        if points is None or len(points) % 2:
            raise ValueError(
                f"{place}.segmentation[{index}] = {shorten(values)}: must be a polygon, an even number of values "
                "x1, y1, x2, y2, ... A segmentation is a list of polygons, or an RLE mask."
            )
        if points[:2] == points[-2:]:
            points = points[:-2]
        if len(points) >= 6 and all(abs(x) < _FARTHEST for x in points) and polygon_area(points) > 0:
            parts.append(points)
        else:
            unusable += 1
    return parts, unusable


def polygon_area(points: list[float]) -> float:
    """Returns the area of a polygon x1, y1, x2, y2, ... by the shoelace formula; it is that of the enclosed region if
    no two edges cross."""
    x, y = points[::2], points[1::2]
    # Relative to the first point, because products of large coordinates lose the digits that matter
    x, y = [value - x[0] for value in x], [value - y[0] for value in y]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2


def clip_polygon(points: list[float], width: int, height: int) -> list[list[float]]:
    """
    Intersects a polygon with its image.

    Args:
        points (`list[float]`):
            The polygon, x1, y1, x2, y2, ..., in pixels.
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.

    Returns:
        `list[list[float]]`: a polygon that lies inside as it is, point by point; of another one the parts inside the
        image, none if there are none. Edges that cross each other are resolved first.
    """
    x1, y1, x2, y2 = enclosing_box(points)
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return [points]
    import shapely

    polygon = shapely.Polygon(list(zip(points[::2], points[1::2], strict=True)))
    inside = shapely.make_valid(polygon).intersection(shapely.box(0, 0, width, height))
    parts = [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon" and part.area > 0]
    rings = [shapely.get_coordinates(part.exterior)[:-1].clip(0, [width, height]) for part in parts]
    return [[round(value, DECIMALS) for value in ring.ravel().tolist()] for ring in rings]


def segmentation_box(segmentation: Any, width: int, height: int, place: str) -> tuple[float, ...] | None:
    """
    The box around a segmentation.

    Args:
        segmentation:
            A list of polygons, or an RLE mask, compressed or not.
        width (`int`):
            Width of the image in pixels.
        height (`int`):
            Height of the image in pixels.
        place (`str`):
            Where it stands, for messages.

    Returns:
        `tuple[float, ...]` or `None`: the box, xyxy, in pixels; `None` if there is no usable polygon and no RLE mask,
        or the mask is empty.

    Raises:
        `ValueError`: if the segmentation is malformed or the mask has another size than the image.
    """
    if not isinstance(segmentation, dict):
        parts, _ = polygon_parts(segmentation, place)
        return tuple(enclosing_box([value for part in parts for value in part])) if parts else None
    from faster_coco_eval.core import mask

    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width] or not isinstance(counts, (list, str)):
        raise ValueError(
            f"{place}.segmentation = {shorten(segmentation)}: must be an RLE mask with size = [{height}, {width}], "
            "height and width of the image, and counts."
        )
    try:
        encoded = mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        x, y, w, h = mask.toBbox(encoded).tolist()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{place}.segmentation.counts = {shorten(counts)}: not an RLE mask ({error}).") from error
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None

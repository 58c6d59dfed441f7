# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Polygons with fewer vertices: every coordinate of a polygon costs a token."""

from collections.abc import Sequence

import numpy as np
import shapely

MIN_VERTICES = 4  # a box, to which the simplification falls back
_TOLERANCES = np.geomspace(1e-5, 1.0, 256)  # of the longer side of the box around the polygon


def simplify_polygon(polygon: Sequence[float], max_points: int) -> tuple[float, ...] | None:
    """
    Drops vertices of a polygon until at most `max_points` remain.

    The outermost vertices (least and largest x and y) stay, and cut the outline into at most four lines. These are
    simplified by Douglas–Peucker in the form that keeps them from crossing (shapely's `simplify` with
    `preserve_topology`), with the smallest tolerance found by bisection. So the box around the polygon stays exactly
    the same, and the remaining vertices are vertices of the polygon.

    Args:
        polygon (`Sequence[float]`):
            x1, y1, x2, y2, ...; at least 3 vertices.
        max_points (`int`):
            Largest number of vertices, at least 4.

    Returns:
        `tuple[float, ...]` or `None`: the polygon with at most `max_points` vertices, the same if it has no more;
        `None` if that is not possible without losing its shape: no area, or an outline that crosses itself anew.

    Raises:
        `ValueError`: if `max_points` is below 4.
    """
    if max_points < MIN_VERTICES:
        raise ValueError(f"max_points = {max_points!r}: must be at least {MIN_VERTICES}, the corners of a box.")
    if len(polygon) <= 2 * max_points:
        return tuple(polygon)
    points = np.reshape(np.asarray(polygon, dtype=float), (-1, 2))
    extent = np.ptp(points, axis=0)
    if not extent.all():
        return None
    lines = shapely.multilinestrings(_lines_between_outermost(points))
    tolerances = _TOLERANCES * extent.max()
    low, high, found = 0, len(tolerances), None  # found fits, and has tolerances[high]
    while low < high:
        middle = (low + high) // 2
        simpler = shapely.simplify(lines, tolerances[middle], preserve_topology=True)
        if shapely.get_num_coordinates(simpler) - len(simpler.geoms) <= max_points:
            high, found = middle, simpler
        else:
            low = middle + 1
    if found is None:
        return None
    ring = np.concatenate([shapely.get_coordinates(line)[:-1] for line in found.geoms])
    if len(ring) < 3:
        return None
    simplified = shapely.polygons(ring)
    if simplified.area == 0 or (not simplified.is_valid and shapely.is_valid(shapely.polygons(points))):
        return None
    return tuple(ring.ravel().tolist())


def _lines_between_outermost(points: np.ndarray) -> list[np.ndarray]:
    low, high = points.argmin(axis=0), points.argmax(axis=0)
    corners = sorted({int(index) for index in (*low, *high)})
    ring = np.roll(points, -corners[0], axis=0)
    ring = np.concatenate([ring, ring[:1]])
    ends = [corner - corners[0] for corner in corners] + [len(points)]
    return [shapely.linestrings(ring[start : end + 1]) for start, end in zip(ends, ends[1:], strict=False)]

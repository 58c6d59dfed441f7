# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Polygons: their overlap as masks, and what each vertex of a predicted polygon should have been.

A predicted polygon and an annotated one rarely have the same vertices: another start, another direction, another
number. Which point belongs to which is found by entropic optimal transport (Sinkhorn; Cuturi, 2013,
https://huggingface.co/papers/1306.0895) between the two outlines, see [`outline_targets`].
"""

from collections.abc import Sequence

import numpy as np
import ot
import shapely

from coordexp_trl.coordinates import CoordinateGrid

# Bounds of what one polygon can cost
MAX_CROSSED_VERTICES = 128  # of a polygon that crosses itself, whose crossings can be as many as their square
MAX_TRANSPORTED_VERTICES = 128
OUTLINE_SAMPLES = 64
VERTEX_SHARE = 0.75  # of the mass, where both polygons have as many vertices
# Squared length, the longest distance of a point from the middle of its outline being 1: no kernel entry is below
# exp(-4 / 0.01) = 1e-174, which a float64 can hold
REGULARIZATION = 0.01
MAX_ITERATIONS = 40

Points = np.ndarray | Sequence[float] | Sequence[Sequence[float]]


def as_points(values: Points) -> np.ndarray:
    """Returns x1, y1, x2, y2, ..., or points of shape `(n, 2)`, as float64 points of shape `(n, 2)`."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def region(values: Points) -> shapely.Geometry:
    """
    The area inside a polygon.

    A polygon that crosses or touches itself is cut into simple ones, all of which count; its edges that enclose
    nothing do not. Beyond 128 vertices such a polygon is first reduced to 128, evenly chosen: random points have
    quadratically many crossings.

    Args:
        values (`numpy.ndarray` or sequence):
            At least 3 vertices, as x1, y1, x2, y2, ... or of shape `(n, 2)`.

    Returns:
        `shapely.Geometry`: valid, and empty if a value is not finite.
    """
    points = as_points(values)
    if not np.isfinite(points).all():
        return shapely.Polygon()
    polygon = shapely.polygons(_closed(points))
    if shapely.is_valid(polygon):
        return polygon
    polygon = shapely.polygons(_closed(_thinned(points, MAX_CROSSED_VERTICES)))
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def mask_iou(regions1: Sequence[shapely.Geometry], regions2: Sequence[shapely.Geometry]) -> np.ndarray:
    """
    Intersection over union of corresponding regions, see [`region`].

    Args:
        regions1 (`Sequence[shapely.Geometry]`):
            N regions.
        regions2 (`Sequence[shapely.Geometry]`):
            N regions.

    Returns:
        `numpy.ndarray`: IoU in `[0, 1]`, of shape `(N,)`; 0 where neither has an area.
    """
    regions1, regions2 = np.asarray(regions1, dtype=object), np.asarray(regions2, dtype=object)
    intersection = shapely.area(shapely.intersection(regions1, regions2))
    union = shapely.area(regions1) + shapely.area(regions2) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0).clip(0, 1)


def outline_targets(pred: Points, gt: Points) -> np.ndarray:
    """
    The point on the outline of `gt` that corresponds to each vertex of `pred`.

    With `P` and `Q` the outlines as distributions, a share `0.75 · min(n, m) / max(n, m)` of the mass on vertices and
    the rest along the edges, and `T` the barycentric projection of the Sinkhorn plan for squared distances,

        y_i = nearest point of the outline of gt to  x_i + T_PQ(x_i) - T_PP(x_i),
        T_PQ(x) = sum_j q_j v_j exp(-|x - q_j|^2 / eps) / sum_j v_j exp(-|x - q_j|^2 / eps).

    Mass on the vertices brings corners to corners; mass on the edges keeps a polygon with another number of vertices
    from being drawn inwards, to means of vertices, or all of it to the corners. Entropy blurs `T_PQ` towards the
    inside; the transport of `P` to itself is blurred alike, so the difference is free of it (Feydy et al., 2019,
    https://huggingface.co/papers/1810.08278): a polygon compared with itself, or with itself shifted, gets exactly its
    own vertices. Neither the order nor the direction of the vertices matters.

    Beyond 128 vertices a polygon is represented by 128, evenly chosen, and Sinkhorn stops after 40 iterations, so the
    time grows linearly with the number of vertices.

    Args:
        pred (`numpy.ndarray` or sequence):
            n finite vertices, as x1, y1, x2, y2, ... or of shape `(n, 2)`.
        gt (`numpy.ndarray` or sequence):
            m finite vertices.

    Returns:
        `numpy.ndarray`: points of shape `(n, 2)`.
    """
    pred, gt = as_points(pred), as_points(gt)
    share = VERTEX_SHARE * min(len(pred), len(gt)) / max(len(pred), len(gt))
    (p, p_mass), (q, q_mass) = _outline(pred, share), _outline(gt, share)
    p_middle, q_middle = p_mass @ p, q_mass @ q  # squared distances make the plan indifferent to shifts
    p, q = p - p_middle, q - q_middle
    x = pred - p_middle
    scale = max(np.hypot(*points.T).max() for points in (p, q, x)) or 1.0
    p, q, x = p / scale, q / scale, x / scale
    moved = x + _entropic_map(x, p, p_mass, q, q_mass) - _entropic_map(x, p, p_mass, p, p_mass)
    return _nearest_on_outline(moved * scale + q_middle, gt)


def vertex_targets(bins: Sequence[int], wanted: Sequence[int], grid: CoordinateGrid) -> dict[int, int]:
    """
    The bins that a predicted polygon should have had.

    Args:
        bins (`Sequence[int]`):
            The predicted polygon, x1, y1, x2, y2, ...
        wanted (`Sequence[int]`):
            The ground truth: a polygon, or a box of four.
        grid ([`CoordinateGrid`]):
            Coordinate grid.

    Returns:
        `dict[int, int]`: Index in `bins` → target bin. Against a polygon every coordinate has one, see
        [`outline_targets`]. A box says nothing but how far the object reaches, so against a box only the four
        coordinates of [`extremes`] do.
    """
    if len(wanted) == 4:
        return dict(zip(extremes(bins), wanted, strict=True))
    targets = outline_targets(grid.bins_to_unit(bins), grid.bins_to_unit(wanted))
    return dict(enumerate(np.rint(targets * (grid.num_bins - 1)).astype(int).ravel().tolist()))


def extremes(values: Sequence[float]) -> tuple[int, int, int, int]:
    """
    Returns the indices, among x1, y1, x2, y2, ..., of the coordinates that make the enclosing box: left, top, right,
    bottom. They are distinct, even if all vertices are one point.
    """
    even, odd = range(0, len(values), 2), range(1, len(values), 2)
    smallest = values.__getitem__
    # Of equal ones the first is the smallest, the last the largest
    left, right = min(even, key=smallest), max(reversed(even), key=smallest)
    top, bottom = min(odd, key=smallest), max(reversed(odd), key=smallest)
    return left, top, right, bottom


def _outline(points: np.ndarray, vertex_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Samples `(s, 2)` of an outline, vertices among them, and their mass `(s,)`."""
    points = _thinned(points, MAX_TRANSPORTED_VERTICES)
    steps = np.roll(points, -1, axis=0) - points
    lengths = np.hypot(*steps.T)
    shares = lengths / lengths.sum() if lengths.sum() > 0 else np.full(len(points), 1 / len(points))
    parts = np.maximum(np.ceil(shares * OUTLINE_SAMPLES), 1).astype(int)
    edge = np.repeat(np.arange(len(points)), parts)
    starts = parts.cumsum() - parts
    samples = points[edge] + steps[edge] * ((np.arange(len(edge)) - starts[edge]) / parts[edge])[:, None]
    length = (shares / parts)[edge]
    mass = (1 - vertex_share) * (length + np.roll(length, 1)) / 2  # half of the pieces before and behind each sample
    mass[starts] += vertex_share / len(points)
    return samples, mass


def _entropic_map(x: np.ndarray, p: np.ndarray, p_mass: np.ndarray, q: np.ndarray, q_mass: np.ndarray) -> np.ndarray:
    """The barycentric projection of the Sinkhorn plan from `p` to `q`, at any points `x`."""
    _, log = ot.sinkhorn(
        p_mass, q_mass, ot.dist(p, q), REGULARIZATION, numItermax=MAX_ITERATIONS, log=True, warn=False
    )
    mass = np.exp(-ot.dist(x, q) / REGULARIZATION) * log["v"]
    return mass @ q / mass.sum(1, keepdims=True)


def _nearest_on_outline(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    outline = shapely.linestrings(_closed(_thinned(polygon, MAX_TRANSPORTED_VERTICES)))
    if outline.length == 0:
        return np.broadcast_to(polygon[0], points.shape).copy()
    along = shapely.line_locate_point(outline, shapely.points(points))
    return shapely.get_coordinates(shapely.line_interpolate_point(outline, along))


def _closed(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, points[:1]])


def _thinned(points: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the points, evenly chosen."""
    return points if len(points) <= most else points[np.linspace(0, len(points), most, endpoint=False).astype(int)]

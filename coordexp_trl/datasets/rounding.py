# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rounding of geometry to integers, in pixels or bins, so that neither boxes nor polygons collapse."""

from collections.abc import Sequence


def round_side(low: float, high: float, limit: int) -> tuple[int, int]:
    """
    Rounds the two ends of a box side, `low < high`, to integers in `0..limit`.

    A side that would collapse is widened to 1, away from the nearer border.

    Example:

    ```python
    >>> round_side(3.2, 3.4, limit=32), round_side(31.7, 32.0, limit=32)
    ((3, 4), (31, 32))
    ```
    """
    low, high = min(max(round(low), 0), limit), min(max(round(high), 0), limit)
    if high > low:
        return low, high
    return (low, low + 1) if 2 * low < limit else (low - 1, low)


def spread(rounded: Sequence[int], exact: Sequence[float], limit: int) -> list[int]:
    """
    Keeps an axis of a polygon from collapsing: if all its rounded values are equal, one of them moves by 1.

    Args:
        rounded (`Sequence[int]`):
            Values of one axis, integers in `0..limit`.
        exact (`Sequence[float]`):
            The values before rounding.
        limit (`int`):
            Largest integer, at least 1.

    Returns:
        `list[int]`: values that are not all equal. The outermost vertex moves, away from the nearer border.
    """
    values = [int(value) for value in rounded]
    first = values[0]
    if any(value != first for value in values):
        return values
    indices = range(len(values))
    if 2 * first < limit:
        values[max(indices, key=exact.__getitem__)] += 1
    else:
        values[min(indices, key=exact.__getitem__)] -= 1
    return values


def round_axis(values: Sequence[float], limit: int) -> list[int]:
    """Rounds the values of one axis of a polygon to integers in `0..limit` that are not all equal."""
    return spread([min(max(round(value), 0), limit) for value in values], values, limit)


def interleave(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, ...]:
    """Returns `(x1, y1, x2, y2, ...)`."""
    return tuple(value for point in zip(xs, ys, strict=True) for value in point)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Recognises boxes that follow another convention than pixels xyxy, from how a whole dataset's boxes lie."""

import numpy as np

MIN_BOXES = 10  # fewer boxes can look like anything
_MOST = 0.5  # part of the boxes that must break the convention before another one is suspected
_NEARLY_ALL = 0.99  # part of the boxes that the suspected convention must explain
_THOUSAND = 1000
_LONG_SIDE = 1200  # pixels: 1000 lies well inside
_MANY_BOXES = 30  # of long sides
_AT_BORDER = 0.03  # part of the boxes that must end at 1000


def suspect_convention(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """
    Names the convention that boxes seem to follow if it is not pixels xyxy.

    Args:
        boxes (`numpy.ndarray`):
            Boxes of shape `(N, 4)`, taken for xyxy in pixels, before any clipping.
        sizes (`numpy.ndarray`):
            Width and height of each box's image, shape `(N, 2)`.

    Returns:
        `str` or `None`: what the boxes seem to be and what to do, `None` if nothing is suspicious or there are fewer
        than 10 boxes. Sets whose images all have 1000 x 1000 pixels are never suspected of being 1000-scaled, and of
        larger images only those with enough boxes at the border.

    Example:

    ```python
    >>> boxes = np.random.default_rng(0).uniform(0.1, 0.4, (50, 4)) + [0, 0, 0.5, 0.5]
    >>> suspect_convention(boxes, np.full((50, 2), 640))
    'the boxes look normalised: every value lies between 0 and 1. Multiply them by width and height.'
    ```
    """
    boxes, sizes = np.asarray(boxes, dtype=float), np.asarray(sizes, dtype=float)
    finite = np.isfinite(boxes).all(1)
    boxes, sizes = boxes[finite], sizes[finite]
    if len(boxes) < MIN_BOXES:
        return None
    if boxes.min() >= 0 and boxes.max() <= 1:
        return "the boxes look normalised: every value lies between 0 and 1. Multiply them by width and height."
    x1, y1, x2, y2 = boxes.T
    width, height = sizes.T
    inverted = (x2 < x1) | (y2 < y1)
    outside = (boxes < -1).any(1) | (x2 > width + 1) | (y2 > height + 1)
    broken = (inverted | outside).mean()
    if not broken and (_end_at_thousand(boxes, x2, width) or _end_at_thousand(boxes, y2, height)):
        return (
            "the boxes look 1000-scaled: in images with longer sides many end at 1000, and none beyond. Multiply them "
            "by width / 1000 and height / 1000."
        )
    if broken < _MOST:
        # Boxes given as x, y, w, h also fit small objects near the top left corner, and then look inverted
        return None
    # What the boxes would be in the suspected convention must fit nearly all images
    as_thousand = (boxes >= 0).all(1) & (boxes <= _THOUSAND).all(1) & ~inverted
    swapped = (boxes >= -1).all(1) & (x2 <= height + 1) & (y2 <= width + 1) & ~inverted
    as_xywh = (boxes >= -1).all(1) & (x1 + x2 <= width + 1) & (y1 + y2 <= height + 1) & (x2 > 0) & (y2 > 0)
    if as_xywh.mean() >= _NEARLY_ALL:
        return f"the boxes look like x, y, width, height: as xyxy {broken:.0%} are inverted or leave their image."
    if swapped.mean() >= _NEARLY_ALL and (width != height).any():
        return f"width and height look swapped: {broken:.0%} of the boxes leave their image, none with them exchanged."
    if as_thousand.mean() >= _NEARLY_ALL and ((width != _THOUSAND) | (height != _THOUSAND)).any():
        return (
            f"the boxes look 1000-scaled: {broken:.0%} leave their image, and all values lie between 0 and 1000. "
            "Multiply them by width / 1000 and height / 1000."
        )
    return f"{broken:.0%} of the boxes are inverted or leave their image. Boxes are xyxy in pixels of the image file."


def _end_at_thousand(boxes: np.ndarray, ends: np.ndarray, sides: np.ndarray) -> bool:
    """Whether boxes end as if 1000 were the border of longer sides: objects at the border of a photo are frequent."""
    ends = ends[sides >= _LONG_SIDE]
    if len(ends) < _MANY_BOXES or boxes.min() < 0 or boxes.max() > _THOUSAND:
        return False
    return bool((ends >= 0.99 * _THOUSAND).mean() >= _AT_BORDER)

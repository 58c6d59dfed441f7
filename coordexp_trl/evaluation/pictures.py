# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Pictures of detections: ground truth beside predictions, contact sheets, and training curves."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.curves import plot_curves
from coordexp_trl.evaluation.f1 import match_detections
from coordexp_trl.records import DetectionObject

__all__ = ["draw_objects", "draw_overlay", "plot_curves", "save_overlays"]

Box = tuple[float, float, float, float]

COLORS = {
    "GT": (70, 150, 255),
    "TP": (60, 190, 75),
    "FP": (235, 60, 60),
    "FN": (255, 160, 30),
}
_BACKGROUND = (28, 28, 32)
_TEXT = (235, 235, 235)
_OUTLINE = (255, 225, 60)
_MIN_SIDE, _MAX_SIDE = 384, 1024  # of a panel, in pixels; images are scaled to lie between
_GAP = 8


def draw_overlay(
    image: Image.Image,
    gt_objects: Sequence[DetectionObject],
    pred_objects: Sequence[DetectionObject],
    scores: Sequence[float] | None = None,
    title: str = "",
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    grid: CoordinateGrid | None = None,
) -> Image.Image:
    """
    Draws an image twice: ground truth (GT) to the left, predictions to the right.

    In the right panel true positives are green, false positives red, and the GT objects that were missed orange and
    dashed. Small images are enlarged so that labels can be read; where boxes are dense, labels without room are left
    out.

    Args:
        image (`PIL.Image.Image`):
            The image that the objects describe.
        gt_objects (`Sequence[DetectionObject]`):
            GT objects, in pixels or bins.
        pred_objects (`Sequence[DetectionObject]`):
            Predicted objects, in pixels or bins.
        scores (`Sequence[float]`, *optional*):
            Scores of the predictions, written behind their labels.
        title (`str`, *optional*, defaults to `""`):
            Text above the panels, such as the name of the image.
        iou_threshold (`float`, *optional*, defaults to `0.5`):
            Least IoU of a true positive, see [`~evaluation.f1.match_detections`].
        class_agnostic (`bool`, *optional*, defaults to `False`):
            Whether the descriptions are ignored in the matching.
        grid ([`CoordinateGrid`], *optional*):
            Grid of objects in bins. Defaults to 1000 bins.

    Returns:
        `PIL.Image.Image`: an RGB picture.

    Raises:
        `ValueError`: if scores and predictions differ in number.
    """
    if scores is not None and len(scores) != len(pred_objects):
        raise ValueError(f"scores: got {len(scores)} for {len(pred_objects)} predictions.")
    grid = grid or CoordinateGrid()
    gt_boxes, pred_boxes = (
        [item.pixel_box(*image.size, grid) for item in side] for side in (gt_objects, pred_objects)
    )
    gt_labels, pred_labels = [item.desc for item in gt_objects], [item.desc for item in pred_objects]
    pairs = match_detections(pred_boxes, pred_labels, gt_boxes, gt_labels, iou_threshold, class_agnostic)
    hits, found = {i for i, _, _ in pairs}, {j for _, j, _ in pairs}
    if scores is not None:
        pred_labels = [f"{label} {score:.2f}" for label, score in zip(pred_labels, scores, strict=True)]

    truths = [("GT", box, label) for box, label in zip(gt_boxes, gt_labels, strict=True)]
    outcomes = [("FN", box, gt_labels[j]) for j, box in enumerate(gt_boxes) if j not in found]
    outcomes += [("FP", box, pred_labels[i]) for i, box in enumerate(pred_boxes) if i not in hits]
    outcomes += [("TP", box, pred_labels[i]) for i, box in enumerate(pred_boxes) if i in hits]
    counts = {kind: sum(outcome[0] == kind for outcome in outcomes) for kind in ("TP", "FP", "FN")}

    font = ImageFont.load_default(13 if max(len(truths), len(outcomes)) <= 40 else 10)
    left = _panel(image, truths, [("ground truth", _TEXT), (f"{len(truths)} objects", COLORS["GT"])], font)
    legend = [(f"{count} {kind}", COLORS[kind]) for kind, count in counts.items()]
    right = _panel(image, outcomes, [("predictions", _TEXT), *legend], font)
    top = 26 if title else 0
    canvas = Image.new("RGB", (left.width + _GAP + right.width, top + left.height), _BACKGROUND)
    if title:
        ImageDraw.Draw(canvas).text((4, 4), " ".join(title.split()), fill=_TEXT, font=ImageFont.load_default(15))
    canvas.paste(left, (0, top))
    canvas.paste(right, (left.width + _GAP, top))
    return canvas


def draw_objects(
    image: Image.Image, objects: Sequence[DetectionObject], title: str = "", grid: CoordinateGrid | None = None
) -> Image.Image:
    """
    Draws the objects of a record over its image: boxes, polygons with their vertices, and labels.

    Args:
        image (`PIL.Image.Image`):
            The image that the objects describe.
        objects (`Sequence[DetectionObject]`):
            The objects, in pixels or bins.
        title (`str`, *optional*, defaults to `""`):
            Text above the image.
        grid ([`CoordinateGrid`], *optional*):
            Grid of objects in bins. Defaults to 1000 bins.

    Returns:
        `PIL.Image.Image`: an RGB picture.
    """
    grid = grid or CoordinateGrid()
    boxes = [item.pixel_box(*image.size, grid) for item in objects]
    outcomes = [("GT", box, item.desc) for box, item in zip(boxes, objects, strict=True)]
    outlines = [_vertices(item, image.size, grid) for item in objects if item.is_polygon]
    font = ImageFont.load_default(13 if len(outcomes) <= 40 else 10)
    legend = [(" ".join(title.split()), _TEXT), (f"{len(outcomes)} objects", COLORS["GT"])]
    return _panel(image, outcomes, legend, font, outlines)


def save_overlays(overlays: Sequence[Image.Image], path: str | os.PathLike, columns: int | None = None) -> Path:
    """
    Saves pictures as one contact sheet.

    Args:
        overlays (`Sequence[PIL.Image.Image]`):
            The pictures, at least one, from left to right and top to bottom.
        path (`str` or `os.PathLike`):
            Image file to write, such as `samples.png`; missing folders are made.
        columns (`int`, *optional*):
            Pictures in a row. Defaults to what makes the sheet roughly square.

    Returns:
        `Path`: the file.

    Raises:
        `ValueError`: if there is no picture or no column.
    """
    if not overlays:
        raise ValueError("overlays: is empty, there is nothing to save.")
    width, height = max(item.width for item in overlays) + _GAP, max(item.height for item in overlays) + _GAP
    if columns is None:
        columns = max(1, min(len(overlays), round(math.sqrt(len(overlays) * height / width))))
    if columns < 1:
        raise ValueError(f"columns = {columns}: must be at least 1.")
    sheet = Image.new("RGB", (columns * width + _GAP, math.ceil(len(overlays) / columns) * height + _GAP), _BACKGROUND)
    for index, item in enumerate(overlays):
        row, column = divmod(index, columns)
        sheet.paste(item.convert("RGB"), (_GAP + column * width, _GAP + row * height))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _vertices(item: DetectionObject, size: tuple[int, int], grid: CoordinateGrid) -> list[tuple[float, float]]:
    """The vertices of a polygon in pixels."""
    if item.poly is not None:
        return list(zip(item.poly[::2], item.poly[1::2], strict=True))
    points = zip(item.bins[::2], item.bins[1::2], strict=True)
    return [tuple(value) for value in grid.bins_to_pixels([point * 2 for point in points], *size)[:, :2].tolist()]


def _panel(
    image: Image.Image,
    outcomes: list[tuple[str, Box, str]],
    legend: list[tuple[str, tuple[int, int, int]]],
    font: ImageFont.FreeTypeFont,
    outlines: Sequence[list[tuple[float, float]]] = (),
) -> Image.Image:
    """One copy of the image with boxes `(kind, box, label)` and polygons below a line of coloured words."""
    longest = max(image.size)
    scale = min(max(_MIN_SIDE, longest), _MAX_SIDE) / longest
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    factors = (size[0] / image.width, size[1] / image.height) * 2
    for vertices in outlines:
        points = [(x * factors[0], y * factors[1]) for x, y in vertices]
        draw.line([*points, points[0]], fill=_OUTLINE, width=2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_OUTLINE)
    scaled = []
    for kind, box, label in outcomes:
        x1, y1, x2, y2 = (value * factor for value, factor in zip(box, factors, strict=True))
        # A pixel is an area: the last one inside an edge at x is x - 1.
        box = (min(x1, x2), min(y1, y2), max(max(x1, x2) - 1, min(x1, x2)), max(max(y1, y2) - 1, min(y1, y2)))
        scaled.append((kind, box, label))
        _draw_box(draw, box, COLORS[kind], dashed=kind == "FN")
    taken = []
    for kind, box, label in reversed(scaled):
        _draw_label(draw, box, label, COLORS[kind], font, taken, size)

    words = ImageFont.load_default(15)
    canvas = Image.new("RGB", (max(size[0], _MIN_SIDE), size[1] + 26), _BACKGROUND)
    pen, x = ImageDraw.Draw(canvas), 4.0
    for text, color in legend:
        pen.text((x, 4), text, fill=color, font=words)
        x += pen.textlength(text, font=words) + 14
    canvas.paste(picture, (0, 26))
    return canvas


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int], dashed: bool) -> None:
    x1, y1, x2, y2 = box
    if not dashed:
        draw.rectangle(box, outline=(0, 0, 0), width=3)
        draw.rectangle(box, outline=color, width=2)
        return
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = math.dist(start, end)
        for at in range(0, math.ceil(length), 10):
            ends = [
                tuple(a + (b - a) * min(position, length) / length for a, b in zip(start, end, strict=True))
                for position in (at, at + 6)
            ]
            draw.line(ends, fill=color, width=2)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Box,
    label: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    taken: list[Box],
    size: tuple[int, int],
) -> None:
    """Writes a label at the first free place around its box and adds the place to `taken`, or leaves it out."""
    label = " ".join(label.split())  # a line break cannot be drawn
    if len(label) > 32:
        label = label[:31] + "…"
    width, height = draw.textlength(label, font=font) + 6, font.size + 4
    x1, y1, x2, y2 = box
    places = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2 - height), (x2, y1)]
    for x, y in places:
        x, y = min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))
        place = (x, y, x + width, y + height)
        if not any(
            place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]
            for other in taken
        ):
            taken.append(place)
            draw.rectangle(place, fill=color)
            draw.text((x + 3, y + 1), label, fill=(0, 0, 0), font=font)
            return

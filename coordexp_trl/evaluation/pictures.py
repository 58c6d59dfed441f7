# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Pictures of detections: ground truth beside predictions, contact sheets, and training curves."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.curves import plot_curves
from coordexp_trl.evaluation.f1 import find_duplicates, match_detections
from coordexp_trl.evaluation.fonts import draw_text
from coordexp_trl.evaluation.panels import BACKGROUND, COLORS, HEADING, HEADING_SIZE, TEXT, draw_pair, draw_panel
from coordexp_trl.records import DetectionObject

__all__ = ["COLORS", "draw_objects", "draw_overlay", "plot_curves", "save_overlays"]

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

    In the right panel true positives are green, false positives red, those that repeat another prediction violet, and
    the GT objects that were missed orange and dashed. Small images are enlarged so that labels can be read; labels
    without room are left out.

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
    kinds = dict.fromkeys(hits, "TP")
    kinds |= dict.fromkeys(find_duplicates(pred_boxes, pred_labels, hits, class_agnostic=class_agnostic), "duplicate")
    if scores is not None:
        pred_labels = [f"{label} {score:.2f}" for label, score in zip(pred_labels, scores, strict=True)]

    truths = [("GT", box, label) for box, label in zip(gt_boxes, gt_labels, strict=True)]
    outcomes = [("FN", box, gt_labels[j]) for j, box in enumerate(gt_boxes) if j not in found]
    predicted = [(kinds.get(i, "FP"), box, pred_labels[i]) for i, box in enumerate(pred_boxes)]
    outcomes += sorted(predicted, key=lambda outcome: ("duplicate", "FP", "TP").index(outcome[0]))
    left, right = draw_pair(image, truths, outcomes)
    top = HEADING if title else 0
    canvas = Image.new("RGB", (left.width + _GAP + right.width, top + left.height), BACKGROUND)
    if title:
        draw_text(ImageDraw.Draw(canvas), (4, 4), " ".join(title.split()), HEADING_SIZE, TEXT)
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
    heading = [(" ".join(title.split()), TEXT), (f"{len(outcomes)} objects", COLORS["GT"])]
    return draw_panel(image, outcomes, heading, outlines=outlines)


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
    sheet = Image.new("RGB", (columns * width + _GAP, math.ceil(len(overlays) / columns) * height + _GAP), BACKGROUND)
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

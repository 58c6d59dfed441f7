# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Images with coloured boxes and labels. Imports nothing heavy: who draws has matched before."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from coordexp_trl.evaluation.fonts import draw_text, text_width

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]
Outcome = tuple[str, Box, str]  # a key of COLORS, the box in pixels, and its label

COLORS = {
    "GT": (70, 150, 255),
    "TP": (60, 190, 75),
    "FP": (235, 60, 60),
    "FN": (255, 160, 30),
    "duplicate": (205, 95, 255),
    "ignored": (150, 155, 165),
}
BACKGROUND = (28, 28, 32)
TEXT = (235, 235, 235)
HEADING = 26  # height of the line of words above a panel, in pixels
HEADING_SIZE = 15
MIN_SIDE, MAX_SIDE = 384, 1024  # of a panel, in pixels; images are scaled to lie between
_OUTLINE = (255, 225, 60)
_FEW_OBJECTS = 40  # up to which labels are large


def draw_pair(
    image: Image.Image,
    truths: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    size: tuple[int, int] | None = None,
    max_side: int = MAX_SIDE,
) -> tuple[Image.Image, Image.Image]:
    """
    Draws an image twice: with its ground truth, and with what became of the predictions.

    Args:
        image (`PIL.Image.Image`):
            The image.
        truths (`Sequence[Outcome]`):
            Ground truth: kind (`"GT"` or `"ignored"`), box and label.
        outcomes (`Sequence[Outcome]`):
            Predictions and missed objects: kind (`"TP"`, `"FP"`, `"duplicate"`, `"FN"` or `"ignored"`), box and label.
            The last ones are drawn on top.
        size (`tuple[int, int]`, *optional*):
            Width and height to which the boxes refer. Defaults to those of the image.
        max_side (`int`, *optional*, defaults to `1024`):
            Longest side of a panel in pixels.

    Returns:
        `tuple[PIL.Image.Image, PIL.Image.Image]`: two RGB pictures of the same size.
    """
    label_size = 13 if max(len(truths), len(outcomes)) <= _FEW_OBJECTS else 10
    counts = {kind: sum(outcome[0] == kind for outcome in outcomes) for kind in COLORS}
    words = [
        ("predictions", TEXT),
        (f"{counts['TP']} TP", COLORS["TP"]),
        (f"{counts['FP'] + counts['duplicate']} FP", COLORS["FP"]),
    ]
    if counts["duplicate"]:
        words.append((f"({counts['duplicate']} duplicate{'s' * (counts['duplicate'] > 1)})", COLORS["duplicate"]))
    words.append((f"{counts['FN']} FN", COLORS["FN"]))
    if counts["ignored"]:
        words.append((f"{counts['ignored']} ignored", COLORS["ignored"]))
    heading = [("ground truth", TEXT), (f"{len(truths)} objects", COLORS["GT"])]
    size = size or image.size
    image = _scaled(image, size, max_side)  # once for both
    return (
        draw_panel(image, truths, heading, label_size, size=size, max_side=max_side),
        draw_panel(image, outcomes, words, label_size, size=size, max_side=max_side),
    )


def draw_panel(
    image: Image.Image,
    outcomes: Sequence[Outcome],
    heading: Sequence[tuple[str, Color]],
    label_size: int | None = None,
    outlines: Sequence[list[tuple[float, float]]] = (),
    size: tuple[int, int] | None = None,
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """
    Draws boxes and polygons over a copy of an image, below a line of coloured words.

    Args:
        image (`PIL.Image.Image`):
            The image; small ones are enlarged so that labels can be read.
        outcomes (`Sequence[Outcome]`):
            Kind, box in pixels and label. Labels without room are left out.
        heading (`Sequence[tuple[str, Color]]`):
            The words and their colours.
        label_size (`int`, *optional*):
            Size of the labels in pixels. Defaults to what suits the number of boxes.
        outlines (`Sequence[list[tuple[float, float]]]`, *optional*, defaults to `()`):
            Vertices of polygons in pixels.
        size (`tuple[int, int]`, *optional*):
            Width and height to which boxes and polygons refer. Defaults to those of the image.
        max_side (`int`, *optional*, defaults to `1024`):
            Longest side of the drawn image in pixels.

    Returns:
        `PIL.Image.Image`: an RGB picture.
    """
    size = size or image.size
    picture = _scaled(image, size, max_side)
    draw, shown = ImageDraw.Draw(picture), picture.size
    factors = (shown[0] / size[0], shown[1] / size[1]) * 2
    for vertices in outlines:
        points = [(x * factors[0], y * factors[1]) for x, y in vertices]
        draw.line([*points, points[0]], fill=_OUTLINE, width=2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_OUTLINE)
    scaled = []
    for kind, box, label in outcomes:
        x1, y1, x2, y2 = (_within(value * factor, max(shown)) for value, factor in zip(box, factors, strict=True))
        # A pixel is an area: the last one inside an edge at x is x - 1.
        box = (min(x1, x2), min(y1, y2), max(max(x1, x2) - 1, min(x1, x2)), max(max(y1, y2) - 1, min(y1, y2)))
        scaled.append((kind, box, label))
        _draw_box(draw, box, COLORS[kind], dashed=kind == "FN")
    taken = []
    label_size = label_size or (13 if len(outcomes) <= _FEW_OBJECTS else 10)
    for kind, box, label in reversed(scaled):
        _draw_label(draw, box, label, COLORS[kind], label_size, taken, shown)

    canvas = Image.new("RGB", (max(shown[0], MIN_SIDE), shown[1] + HEADING), BACKGROUND)
    pen, x = ImageDraw.Draw(canvas), 4.0
    for text, color in heading:
        draw_text(pen, (x, 4), text, HEADING_SIZE, color)
        x += text_width(text, HEADING_SIZE) + 14
    canvas.paste(picture, (0, HEADING))
    return canvas


def _scaled(image: Image.Image, size: tuple[int, int], max_side: int) -> Image.Image:
    """A copy of the image in RGB, as large as the panel of an image of `size`."""
    scale = min(max(MIN_SIDE, *size), max_side) / max(size)
    shown = [max(round(side * scale), 1) for side in size]
    return image.convert("RGB").resize(shown, Image.Resampling.BICUBIC)


def _within(value: float, side: int) -> float:
    """A coordinate of a box that lies far outside, which cannot be drawn, brought near."""
    return min(max(value, -side), 2 * side)


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, color: Color, dashed: bool) -> None:
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
    color: Color,
    label_size: int,
    taken: list[Box],
    size: tuple[int, int],
) -> None:
    """Writes a label at the first free place around its box and adds the place to `taken`, or leaves it out."""
    label = " ".join(label.split())  # a line break cannot be drawn
    if len(label) > 32:
        label = label[:31] + "…"
    width, height = text_width(label, label_size) + 6, label_size + 4
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
            draw_text(draw, (x + 3, y + 1), label, label_size, (0, 0, 0))
            return

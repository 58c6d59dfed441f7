# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Exports detection records to the JSONL of Qwen's own fine-tuning recipe (`qwen-vl-finetune`).

A line holds `image` and `conversations`; the answer is a JSON list of `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`
with integers, which the recipe trains on as they stand. What they must be depends on the model: Qwen3-VL reads
coordinates relative to the image, 0..1000, as Qwen2-VL does; Qwen2.5-VL pixels of the image after its processor
resized it.
"""

import json
from pathlib import Path

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.exporting import BoxedImage, export_lines
from coordexp_trl.datasets.ms_swift import PROMPT, user_message
from coordexp_trl.datasets.rounding import round_side

COORDINATES = ("thousand", "pixels")
THOUSAND = 1000
FACTOR = 28  # sides of images are multiples of it for Qwen2.5-VL
MIN_PIXELS, MAX_PIXELS = 16 * FACTOR**2, 576 * FACTOR**2  # the recipe's defaults
_MEDIA_TAGS = ("<image>", "<video>")


def export_qwen(
    data: str | Path,
    out: str | Path,
    image_root: str | Path | None = None,
    image_paths: str = "absolute",
    prompt: str = PROMPT,
    coordinates: str = "thousand",
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
) -> ConversionReport:
    """
    Exports detection records for Qwen's fine-tuning recipe.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or coordinate tokens.
        out (`str` or `Path`):
            JSONL file to write.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        image_paths (`str`, *optional*, defaults to `"absolute"`):
            `"absolute"`, or `"relative"` to `image_root`, which is then the recipe's `data_path`.
        prompt (`str`, *optional*, defaults to [`PROMPT`]):
            The human's turn, after the image.
        coordinates (`str`, *optional*, defaults to `"thousand"`):
            `"thousand"`, 0..1000 of width and height, for Qwen3-VL; `"pixels"`, pixels of the resized image, for
            Qwen2.5-VL.
        min_pixels (`int`, *optional*, defaults to `12544`):
            Fewest pixels of a resized image, as in the training command; for `"pixels"`.
        max_pixels (`int`, *optional*, defaults to `451584`):
            Most pixels of a resized image, as in the training command; for `"pixels"`.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if the records are malformed, the prompt or a description holds a tag of the recipe, or an image
        is too long for the processor.
    """
    if coordinates not in COORDINATES:
        raise ValueError(f"coordinates = {coordinates!r}: must be one of {', '.join(COORDINATES)}.")
    if not 0 < min_pixels <= max_pixels:
        raise ValueError(f"min_pixels = {min_pixels}, max_pixels = {max_pixels}: need 0 < min_pixels <= max_pixels.")
    human = user_message(prompt, _MEDIA_TAGS[1:], "\n")

    def to_row(record: BoxedImage, report: ConversionReport) -> dict:
        for desc in record.descs:
            if any(tag in desc for tag in _MEDIA_TAGS):
                raise ValueError(f"{record.place}: desc = {desc!r}: holds a tag of the recipe. Rename it.")
        if coordinates == "thousand":
            width = height = THOUSAND
        else:
            width, height = resized_size(record, min_pixels, max_pixels)
        answer = []
        for desc, (x1, y1, x2, y2) in zip(record.descs, record.boxes, strict=True):
            left, right = round_side(x1 / record.width * width, x2 / record.width * width, width)
            top, bottom = round_side(y1 / record.height * height, y2 / record.height * height, height)
            answer.append({"bbox_2d": [left, top, right, bottom], "label": desc})
        return {
            "image": record.image,
            "conversations": [
                {"from": "human", "value": human},
                {"from": "gpt", "value": json.dumps(answer, ensure_ascii=False)},
            ],
        }

    return export_lines(data, out, to_row, image_root, image_paths)


def resized_size(record: BoxedImage, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height of an image after Qwen2.5-VL's processor; raises `ValueError` if it is too long for it."""
    try:
        height, width = smart_resize(record.height, record.width, FACTOR, min_pixels, max_pixels)
    except ValueError as error:
        raise ValueError(f"{record.place}: {record.width} x {record.height} pixels: {error}.") from error
    return width, height

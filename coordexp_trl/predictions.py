# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Prediction files: what a model found in each image, as one JSON object a line, such as

    {"image": "a.jpg", "width": 640, "height": 480, "objects": [{"desc": "cat", "bbox_2d": [10.0, 20.0, 110.0, 220.0],
    "score": 0.93, "std": [1.2, 0.9, 2.0, 1.1]}], "text": "<obj>…", "finish_reason": "stop", "dropped": {}}

Boxes are xyxy in pixels of the image file, with continuous edges. Unlike a record, a prediction comes from a model: a
box may be inverted or lie outside of its image, and an image may have no object.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.json_lines import box_numbers, need, number, read_json_lines, write_json_lines

FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True, slots=True)
class PredictedObject:
    """
    One object that a model found.

    Args:
        desc (`str`):
            Its description.
        bbox_2d (`tuple[float, float, float, float]`):
            Its box, xyxy in pixels; of a polygon the enclosing box.
        score (`float`, *optional*):
            Confidence in `[0, 1]`, see [`~coordexp_trl.evaluation.scores.object_scores`].
        std (`tuple[float, float, float, float]`, *optional*):
            Standard deviation of each edge in pixels.
        poly (`tuple[float, ...]`, *optional*):
            Polygon, x1, y1, x2, y2, ... in pixels, where the model wrote one.
    """

    desc: str
    bbox_2d: tuple[float, float, float, float]
    score: float | None = None
    std: tuple[float, float, float, float] | None = None
    poly: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """
    What a model found in one image.

    Args:
        image (`str`):
            Path of the image as the data names it.
        width (`int`), height (`int`):
            Size of the image file in pixels.
        objects (`tuple[PredictedObject, ...]`):
            What was found, in the order in which the model wrote it.
        text (`str`, *optional*, defaults to `""`):
            What the model wrote; of several completions one a line.
        finish_reason (`str`, *optional*, defaults to `"stop"`):
            `"stop"`, or `"length"` if a completion was cut.
        dropped (`dict[str, int]`, *optional*):
            Malformed objects that were left out, by reason.
        image_id (`int` or `str`, *optional*):
            Id of the image in COCO results.
        source (`str`, *optional*, defaults to `""`):
            Where it was read, such as `"predictions.jsonl:12"`; not compared.
    """

    image: str
    width: int
    height: int
    objects: tuple[PredictedObject, ...]
    text: str = ""
    finish_reason: str = "stop"
    dropped: dict[str, int] = field(default_factory=dict, hash=False)
    image_id: int | str | None = None
    source: str = field(default="", compare=False)


def read_predictions(path: str | Path) -> list[ImagePrediction]:
    """
    Reads a JSONL file of predictions. Keys beyond those of [`ImagePrediction`] are ignored, so other tools may add
    some; a value that is no number (`NaN`) is kept, for evaluation to count.

    Args:
        path (`str` or `Path`):
            The file: UTF-8, one JSON object a line; `image`, `width`, `height` and `objects` are needed.

    Returns:
        `list[ImagePrediction]`: the predictions in file order.

    Raises:
        `ValueError`: if a line is malformed, naming file, line, field and value.
    """
    return [parse_prediction(row, place) for place, row in read_json_lines(path)]


def parse_prediction(row: dict[str, Any], place: str) -> ImagePrediction:
    """
    Args:
        row (`dict[str, Any]`):
            A line of a prediction file.
        place (`str`):
            Where it was read, such as `"predictions.jsonl:12"`.

    Returns:
        [`ImagePrediction`]: The prediction.

    Raises:
        `ValueError`: If a field is missing or of a wrong type.
    """
    before = f"{place}: "
    width, height = need(row, "width", int, before), need(row, "height", int, before)
    if min(width, height) < 1:
        raise ValueError(f"{place}: width = {width}, height = {height}: must be 1 or more pixels.")
    finish_reason = row.get("finish_reason", "stop")
    if finish_reason not in FINISH_REASONS:
        raise ValueError(f"{place}: finish_reason = {shorten(finish_reason)}: must be one of {list(FINISH_REASONS)}.")
    objects = need(row, "objects", list, before)
    return ImagePrediction(
        image=need(row, "image", str, before),
        width=width,
        height=height,
        objects=tuple(_parse_object(item, f"{place}: objects[{index}]") for index, item in enumerate(objects)),
        text=need({"text": "", **row}, "text", str, before),
        finish_reason=finish_reason,
        dropped=need({"dropped": {}, **row}, "dropped", dict, before),
        image_id=row.get("image_id"),
        source=place,
    )


def write_predictions(predictions: Iterable[ImagePrediction], path: str | Path) -> int:
    """Writes predictions as JSONL and returns their number. The file appears complete or not at all."""
    return write_json_lines(map(prediction_row, predictions), path)


def prediction_row(prediction: ImagePrediction) -> dict[str, Any]:
    """Returns the JSON object of a prediction; what is not known is left out."""
    row: dict[str, Any] = {"image": prediction.image}
    if prediction.image_id is not None:
        row["image_id"] = prediction.image_id
    row |= {"width": prediction.width, "height": prediction.height}
    row["objects"] = [
        {name: value for name in PredictedObject.__slots__ if (value := getattr(item, name)) is not None}
        for item in prediction.objects
    ]
    return row | {
        "text": prediction.text,
        "finish_reason": prediction.finish_reason,
        "dropped": prediction.dropped,
    }


def _parse_object(item: Any, place: str) -> PredictedObject:
    if not isinstance(item, dict):
        raise ValueError(f"{place}: must be a JSON object, got {shorten(item)}.")
    score, std, poly = item.get("score"), item.get("std"), item.get("poly")
    if poly is not None and (not isinstance(poly, list) or len(poly) < 6 or len(poly) % 2):
        raise ValueError(f"{place}.poly = {shorten(poly)}: must be a list of an even number of at least 6 numbers.")
    return PredictedObject(
        desc=need(item, "desc", str, f"{place}."),
        bbox_2d=box_numbers(item.get("bbox_2d"), f"{place}.bbox_2d"),
        score=None if score is None else number(score, f"{place}.score"),
        std=None if std is None else box_numbers(std, f"{place}.std"),
        poly=None if poly is None else tuple(number(value, f"{place}.poly") for value in poly),
    )

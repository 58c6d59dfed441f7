# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading what an evaluation found in each image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.json_lines import box_numbers, need, number, read_json_lines

GT_STATUSES = ("matched", "missed", "ignored")
PREDICTION_STATUSES = ("tp", "fp", "duplicate", "ignored")


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """
    A GT object or a prediction, and what became of it.

    Args:
        desc (`str`):
            Its description.
        bbox_2d (`tuple[float, float, float, float]`):
            Its box, xyxy in pixels of the ground truth's size.
        status (`str`):
            One of `GT_STATUSES` or `PREDICTION_STATUSES`.
        score (`float`, *optional*):
            Score of a prediction.
    """

    desc: str
    bbox_2d: tuple[float, float, float, float]
    status: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """
    A line of `per_image.jsonl`.

    Args:
        image (`str`):
            Path of the image as the data names it.
        image_path (`str`, *optional*):
            Where it lay when it was evaluated.
        width (`int`), height (`int`):
            Size to which the boxes refer.
        tp (`int`), fp (`int`), fn (`int`), duplicates (`int`):
            Counts; duplicates are false positives too.
        f1 (`float`, *optional*):
            F1 of the image.
        finish_reason (`str`, *optional*):
            `"length"` if a completion was cut.
        dropped (`int`):
            Malformed objects that were left out.
        ground_truth (`tuple[ObjectResult, ...]`), predictions (`tuple[ObjectResult, ...]`):
            The objects.
    """

    image: str
    image_path: str | None
    width: int
    height: int
    tp: int
    fp: int
    fn: int
    duplicates: int
    f1: float | None
    finish_reason: str | None
    dropped: int
    ground_truth: tuple[ObjectResult, ...]
    predictions: tuple[ObjectResult, ...]

    @property
    def errors(self) -> int:
        """False positives and missed objects."""
        return self.fp + self.fn


def read_image_results(path: Path) -> list[ImageResult]:
    """
    Reads `per_image.jsonl`.

    Args:
        path (`Path`):
            The file; it may be empty.

    Returns:
        `list[ImageResult]`: its lines.

    Raises:
        `ValueError`: if a line is malformed, naming file, line, field and value.
    """
    if path.stat().st_size == 0:
        return []
    return [_parse_image(row, f"{place}: ") for place, row in read_json_lines(path)]


def _parse_image(row: dict[str, Any], before: str) -> ImageResult:
    counts = {name: need(row, name, int, before) for name in ("width", "height", "tp", "fp", "fn")}
    if min(counts["width"], counts["height"]) < 1:
        raise ValueError(f"{before}width = {counts['width']}, height = {counts['height']}: must be 1 or more pixels.")
    dropped = row.get("dropped") or 0
    return ImageResult(
        image=need(row, "image", str, before),
        image_path=None if row.get("image_path") is None else need(row, "image_path", str, before),
        **counts,
        duplicates=need({"duplicates": 0, **row}, "duplicates", int, before),
        f1=None if row.get("f1") is None else number(row["f1"], f"{before}f1"),
        finish_reason=None if row.get("finish_reason") is None else need(row, "finish_reason", str, before),
        dropped=sum(dropped.values()) if isinstance(dropped, Mapping) else int(number(dropped, f"{before}dropped")),
        ground_truth=_parse_objects(row, "ground_truth", GT_STATUSES, before),
        predictions=_parse_objects(row, "predictions", PREDICTION_STATUSES, before),
    )


def _parse_objects(row: dict[str, Any], key: str, statuses: tuple[str, ...], before: str) -> tuple[ObjectResult, ...]:
    objects = []
    for index, item in enumerate(need(row, key, list, before)):
        place = f"{before}{key}[{index}]"
        if not isinstance(item, dict):
            raise ValueError(f"{place}: must be a JSON object, got {shorten(item)}.")
        box = box_numbers(item.get("bbox_2d"), f"{place}.bbox_2d")
        if not all(map(math.isfinite, box)):
            raise ValueError(f"{place}.bbox_2d = {shorten(item['bbox_2d'])}: must be finite.")
        if item.get("status") not in statuses:
            raise ValueError(f"{place}.status = {shorten(item.get('status'))}: must be one of {list(statuses)}.")
        score = item.get("score")
        objects.append(
            ObjectResult(
                desc=need(item, "desc", str, f"{place}."),
                bbox_2d=box,
                status=item["status"],
                score=None if score is None else number(score, f"{place}.score"),
            )
        )
    return tuple(objects)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading predictions: the JSONL of `coordexp infer`, or a list of COCO results, told apart by what the file holds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco_annotations import finite_numbers
from coordexp_trl.datasets.conversion import read_json
from coordexp_trl.datasets.json_lines import number
from coordexp_trl.evaluation.inputs.contents import JSON_LINES, is_line, read_content
from coordexp_trl.evaluation.inputs.ground_truth import GroundTruth
from coordexp_trl.predictions import ImagePrediction, parse_prediction, read_predictions


@dataclass(slots=True)
class PredictedImage:
    """
    What was predicted for one image.

    Args:
        place (`str`):
            Where it stands, for messages.
        boxes (`numpy.ndarray`):
            Boxes of shape `(N, 4)`, xyxy in pixels, as they were written.
        descs (`list[str]`):
            Their descriptions.
        scores (`list[float | None]`):
            Their scores.
        name (`str`, *optional*):
            Path of the image as the predictions name it.
        image_id (`int` or `str`, *optional*):
            Its id.
        size (`tuple[int, int]`, *optional*):
            Width and height to which the boxes refer.
        finish_reason (`str`, *optional*):
            Why the completion ended.
        dropped (`dict[str, int]`):
            Malformed objects that were left out, by reason.
    """

    place: str
    boxes: np.ndarray
    descs: list[str]
    scores: list[float | None]
    name: str | None = None
    image_id: int | str | None = None
    size: tuple[int, int] | None = None
    finish_reason: str | None = None
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Predictions:
    """
    Args:
        path (`str`):
            The file.
        kind (`str`):
            `"predictions"` or `"COCO results"`.
        images (`list[PredictedImage]`):
            The images in the order of the file.
    """

    path: str
    kind: str
    images: list[PredictedImage]


def read_predicted(path: str | Path, truth: GroundTruth) -> Predictions:
    """
    Reads predictions.

    Args:
        path (`str` or `Path`):
            JSONL of predictions, or a JSON list of COCO results. Images and categories of the latter are those of the
            file `NAME_ids.json` beside `NAME.json`, which `coordexp infer` writes, else those of the ground truth.
        truth ([`GroundTruth`]):
            The ground truth.

    Returns:
        [`Predictions`]

    Raises:
        `ValueError`: if the file is malformed, or no id of a list of results is known.
    """
    content = read_content(path, "predictions")
    if content is None:
        return Predictions(str(path), "predictions", [])
    if content is JSON_LINES:
        return Predictions(str(path), "predictions", [_of_prediction(item) for item in read_predictions(path)])
    if isinstance(content, list):
        return Predictions(str(path), "COCO results", _of_results(Path(path), content, truth))
    if is_line(content):
        return Predictions(str(path), "predictions", [_of_prediction(parse_prediction(content, f"{path}:1"))])
    kind = "annotations, not predictions" if isinstance(content, dict) and "annotations" in content else "neither"
    raise ValueError(
        f"{path}: holds {kind}. Give the predictions.jsonl of `coordexp infer` or a JSON list of COCO results."
    )


def _of_prediction(prediction: ImagePrediction) -> PredictedImage:
    objects = prediction.objects
    return PredictedImage(
        place=prediction.source,
        boxes=np.array([item.bbox_2d for item in objects], dtype=float).reshape(-1, 4),
        descs=[item.desc for item in objects],
        scores=[item.score for item in objects],
        name=prediction.image,
        image_id=prediction.image_id,
        size=(prediction.width, prediction.height),
        finish_reason=prediction.finish_reason,
        dropped=prediction.dropped,
    )


def _of_results(path: Path, results: list, truth: GroundTruth) -> list[PredictedImage]:
    names, categories = _ids_beside(path)
    if categories is None:
        categories = truth.categories
        _check_ids(path, results, truth)
    found: dict[Any, PredictedImage] = {}
    boxes: dict[Any, list] = {}
    for index, row in enumerate(results):
        place = f"{path}: [{index}]"
        image_id, desc, box, score = _parse_result(row, place, categories)
        if image_id not in found:
            found[image_id] = PredictedImage(place, np.empty((0, 4)), [], [], names.get(image_id), image_id)
            boxes[image_id] = []
        found[image_id].descs.append(desc)
        found[image_id].scores.append(score)
        boxes[image_id].append(box)
    for image_id, image in found.items():
        image.boxes = np.array(boxes[image_id], dtype=float).reshape(-1, 4)
    return list(found.values())


def _parse_result(row: Any, place: str, categories: dict[int, str]) -> tuple[Any, str, tuple, float | None]:
    if not isinstance(row, dict):
        raise ValueError(
            f"{place} = {shorten(row)}: must be a JSON object with image_id, category_id, bbox and score."
        )
    image_id, category_id, bbox, score = (row.get(key) for key in ("image_id", "category_id", "bbox", "score"))
    if isinstance(image_id, bool) or not isinstance(image_id, int | str):
        raise ValueError(f"{place}.image_id = {shorten(image_id)}: must be an integer or text.")
    if type(category_id) is not int:
        raise ValueError(f"{place}.category_id = {shorten(category_id)}: must be an integer.")
    values = finite_numbers(bbox)
    if values is None or len(values) != 4:
        raise ValueError(f"{place}.bbox = {shorten(bbox)}: must be four numbers, x, y, width, height.")
    x, y, w, h = values
    desc = categories.get(category_id, f"category {category_id}")
    return image_id, desc, (x, y, x + w, y + h), None if score is None else number(score, f"{place}.score")


def _ids_beside(path: Path) -> tuple[dict[Any, str], dict[int, str] | None]:
    """Names of images and categories by id, of the file that `coordexp infer` writes beside its results."""
    beside = path.with_name(f"{path.stem}_ids.json")
    if not beside.is_file():
        return {}, None
    content = read_json(beside, "predictions")
    images, categories = (content.get(key) if isinstance(content, dict) else None for key in ("images", "categories"))
    if not isinstance(images, dict) or not isinstance(categories, dict):
        raise ValueError(f"{beside}: must hold images and categories, names with their ids. Remove it, or infer anew.")
    return {value: name for name, value in images.items()}, {value: name for name, value in categories.items()}


def _check_ids(path: Path, results: list, truth: GroundTruth) -> None:
    """Raises a `ValueError` if the ground truth cannot say what the ids of results mean."""
    remedy = (
        f"Give {path.stem}_ids.json beside it, the predictions.jsonl, or ground truth in COCO's form or with image_id "
        "and category_ids in its metadata."
    )
    rows = [row for row in results if isinstance(row, dict)]
    if rows and all(image.image_id is None for image in truth.images):
        raise ValueError(
            f"{path}: the images of these COCO results have ids, those of {truth.path} have none. {remedy}"
        )
    if rows and not any(row.get("category_id") in truth.categories for row in rows):
        raise ValueError(
            f"{path}: none of the category ids of these COCO results, such as {shorten(rows[0].get('category_id'))}, "
            f"is one of {truth.path}. {remedy}"
        )

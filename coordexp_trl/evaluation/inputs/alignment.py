# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Finds for each prediction the image of the ground truth (GT), and how its boxes come to the GT's size."""

import os
from typing import Any

from coordexp_trl.evaluation.inputs.ground_truth import GroundTruth, TruthImage
from coordexp_trl.evaluation.inputs.predicted import PredictedImage, Predictions

ROUNDING = 16  # pixels by which a side of a resized image may differ, rounded to a multiple of 32
_SEVERAL = object()  # in place of an image, for a name that several have


def align(predictions: Predictions, truth: GroundTruth, image_root: str | None = None) -> dict[int, PredictedImage]:
    """
    Finds the image of each prediction: by the id of COCO results, else by the path as both files write it, the
    absolute path, or a file name that only one image has.

    Args:
        predictions ([`Predictions`]):
            The predictions.
        truth ([`GroundTruth`]):
            The GT.
        image_root (`str`, *optional*):
            Folder at which relative paths of the predictions start.

    Returns:
        `dict[int, PredictedImage]`: Prediction of each image of the GT, by its position; predictions of other images
        are not in it.

    Raises:
        `ValueError`: If an image has two predictions, or none belongs to any.
    """
    places = _places(truth.images)
    found: dict[int, PredictedImage] = {}
    unknown: dict[Any, str] = {}
    for predicted in predictions.images:
        index = _find(predicted, places, image_root)
        name = predicted.name or predicted.image_id
        first = unknown.get(name) if index is None else found[index].place if index in found else None
        if first is not None:
            raise ValueError(
                f"{predicted.place}: the image {name!r} has predictions at {first} already. Join or remove one."
            )
        if index is None:
            unknown[name] = predicted.place
        else:
            found[index] = predicted
    if predictions.images and not found:
        first = predictions.images[0]
        raise ValueError(
            f"{predictions.path}: none of its {len(predictions.images)} images, the first "
            f"{(first.name or first.image_id)!r}, is one of the {len(truth.images)} in {truth.path}, the first "
            f"{truth.images[0].name!r}. Give the ground truth of the images that were looked at."
        )
    return found


def scale_to(predicted: PredictedImage, truth: TruthImage) -> list[float] | None:
    """
    Returns the factors in x and y that bring predicted boxes to the size of the GT, `None` if the sizes are equal.

    Raises:
        `ValueError`: If one image cannot be a resized version of the other.
    """
    if predicted.size is None or predicted.size == (truth.width, truth.height):
        return None
    old, new = predicted.size, (truth.width, truth.height)
    if not _is_resized(old, new) and not _is_resized(new, old):
        raise ValueError(
            f"{predicted.place}: width and height are {old[0]} x {old[1]}, but {new[0]} x {new[1]} in {truth.place}: "
            "no resized version of it. Were width and height exchanged, or is it another image of the same name?"
        )
    return [new[0] / old[0], new[1] / old[1]]


def _is_resized(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether one factor explains both sides, each rounded."""
    sides = list(zip(old, new, strict=True))
    return max((after - ROUNDING) / before for before, after in sides) <= min(
        (after + ROUNDING) / before for before, after in sides
    )


def _places(images: list[TruthImage]) -> dict[tuple[str, Any], Any]:
    """Position of an image by id, by path and by file name."""
    places: dict[tuple[str, Any], Any] = {}
    for index, image in enumerate(images):
        names = {os.path.normpath(name) for name in (image.name, *image.other_names)}
        names |= {image.path} - {None}
        keys = [("path", name) for name in names]
        keys += [("file", end) for end in {os.path.basename(name) for name in names}]
        if image.image_id is not None:
            keys.append(("id", image.image_id))
        for key in keys:
            places[key] = index if places.get(key, index) == index else _SEVERAL
    return places


def _find(predicted: PredictedImage, places: dict[tuple[str, Any], Any], image_root: str | None) -> int | None:
    if predicted.name is None:
        keys = [("id", predicted.image_id)]
    else:
        name = os.path.normpath(predicted.name)
        absolute = os.path.abspath(os.path.join(image_root or "", name))
        keys = [("path", name), ("path", absolute), ("file", os.path.basename(name))]
    return next((places[key] for key in keys if places.get(key, _SEVERAL) is not _SEVERAL), None)

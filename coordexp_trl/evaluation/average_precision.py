# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""COCO average precision (AP) and average recall (AR) of scored boxes, by faster-coco-eval.

AP is the area under the precision-recall curve, sampled at 101 recalls, of a class over all images; it is averaged
over the classes and the IoU thresholds .50, .55 … .95 (Lin et al., 2014, and the COCO evaluation server). It rewards
scores that rank correct boxes first, so it is as good as the scores are.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from coordexp_trl.evaluation.f1 import Boxes, as_boxes
from coordexp_trl.matching import normalize_desc


@dataclass(frozen=True)
class ImageDetections:
    """
    What was predicted in one image, and the ground truth (GT).

    Args:
        boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            Predicted boxes of shape `(N, 4)`, xyxy, in the unit of the GT boxes: pixels, bins or `[0, 1]`. Inverted
            corners are sorted; a box that is not finite is left out.
        descs (`Sequence[str]`):
            Their `N` descriptions.
        scores (`Sequence[float]`):
            Their `N` scores; larger is more certain.
        gt_boxes (`torch.Tensor`, `numpy.ndarray` or `list`):
            GT boxes of shape `(M, 4)`.
        gt_descs (`Sequence[str]`):
            Their `M` descriptions; equal up to case, spaces and underscores is the same class.
    """

    boxes: Boxes
    descs: Sequence[str]
    scores: Sequence[float]
    gt_boxes: Boxes
    gt_descs: Sequence[str]


def average_precision(images: Sequence[ImageDetections], max_detections: int = 100) -> dict[str, float]:
    """
    Computes AP and AR of a data set, boxes of all sizes together.

    The classes are the descriptions that occur in the GT of any image. Predictions of other descriptions belong to a
    class without GT, for which COCO defines no AP: they do not count, so descriptions that are made up do not lower
    AP. F1 counts them as false positives ([`~coordexp_trl.evaluation.f1.count_detections`]).

    The order of predictions does not matter: equal scores within an image are ordered by box, and between images by
    image. Such an order is arbitrary, and so is the AP of scores that are often equal.

    Args:
        images (`Sequence[ImageDetections]`):
            The images.
        max_detections (`int`, *optional*, defaults to `100`):
            Number of predictions of each class that count in each image, those with the largest scores.

    Returns:
        `dict[str, float]`: numbers in `[0, 1]`:

        - `ap`: AP averaged over the IoU thresholds .50, .55 … .95;
        - `ap50`, `ap75`: AP at IoU .50 and .75;
        - `ar`: largest recall with `max_detections`, averaged over classes and IoU thresholds.

        All are 0.0 if nothing is predicted, and also if there is no GT.

    Raises:
        `ValueError`: if `max_detections` is not positive, boxes do not have shape `(N, 4)`, boxes, descriptions and
            scores differ in number, a score is NaN or a GT box is not finite.

    Example:

    ```python
    >>> box, other = [0, 0, 10, 10], [20, 20, 30, 30]
    >>> image = ImageDetections([box, other], ["cat", "cat"], [0.9, 0.8], [box], ["Cat"])
    >>> average_precision([image])
    {'ap': 1.0, 'ap50': 1.0, 'ap75': 1.0, 'ar': 1.0}
    ```
    """
    if max_detections < 1:
        raise ValueError(f"max_detections = {max_detections}: must be 1 or more.")
    truths, predictions = defaultdict(list), defaultdict(list)
    for index, image in enumerate(images):
        _add_truths(truths, index, image)
        _add_predictions(predictions, index, image)
    if not truths:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "ar": 0.0}
    # Class by class: the tool's cost is images times classes, and few images hold a class of an open vocabulary.
    curves = [_evaluate(truths[name], predictions.get(name, []), max_detections) for name in sorted(truths)]
    precision = np.mean([precision for precision, _ in curves], axis=(0, 2))  # at IoU .50, .55 … .95
    recall = np.mean([recall for _, recall in curves])
    return {
        "ap": float(precision.mean()),
        "ap50": float(precision[0]),
        "ap75": float(precision[5]),
        "ar": float(recall),
    }


def _add_truths(truths: dict[str, list[dict]], index: int, image: ImageDetections) -> None:
    boxes = _as_xywh(f"images[{index}].gt_boxes", image.gt_boxes, image.gt_descs)
    if not np.isfinite(boxes).all():
        raise ValueError(f"images[{index}].gt_boxes: {boxes.tolist()} (xywh) is not finite. Repair the ground truth.")
    for desc, box in zip(image.gt_descs, boxes.tolist(), strict=True):
        _append(truths[normalize_desc(desc)], index, box)


def _add_predictions(predictions: dict[str, list[dict]], index: int, image: ImageDetections) -> None:
    boxes = _as_xywh(f"images[{index}].boxes", image.boxes, image.descs)
    scores = torch.as_tensor(image.scores, dtype=torch.float64, device="cpu").detach().reshape(-1).numpy()
    if len(scores) != len(boxes):
        raise ValueError(f"images[{index}].scores: got {len(scores)} scores for {len(boxes)} boxes.")
    if np.isnan(scores).any():
        nan = np.flatnonzero(np.isnan(scores)).tolist()
        raise ValueError(f"images[{index}].scores: NaN at {nan}. Find out where the log-probabilities became NaN.")
    finite = np.isfinite(boxes).all(axis=1)
    order = np.lexsort((*boxes.T, -scores))  # by score, then by box
    order = order[finite[order]]
    for i, box, score in zip(order.tolist(), boxes[order].tolist(), scores[order].tolist(), strict=True):
        _append(predictions[normalize_desc(image.descs[i])], index, box, score=score)


def _append(annotations: list[dict], index: int, box: list[float], **score: float) -> None:
    # The tool takes a match with id 0 for none, so ids count from 1.
    place = {"id": len(annotations) + 1, "image_id": index, "category_id": 1}
    annotations.append({**place, "bbox": box, "area": box[2] * box[3], **score})


def _as_xywh(name: str, boxes: Boxes, descs: Sequence[str]) -> np.ndarray:
    """Returns float64 boxes of shape `(N, 4)`, corners sorted, as corner and size."""
    boxes = as_boxes(name, boxes)
    if len(boxes) != len(descs):
        raise ValueError(f"{name}: got {len(boxes)} boxes for {len(descs)} descriptions.")
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).numpy()


def _evaluate(truths: list[dict], predictions: list[dict], max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision of shape `(thresholds, recalls)` and recall of shape `(thresholds,)` of one class."""
    evaluation = COCOeval_faster(_as_coco(truths, predictions), _as_coco(predictions, truths), "bbox")
    evaluation.print_function = _discard
    evaluation.params.maxDets = [max_detections]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0.0, math.inf]], ["all"]  # in whatever unit
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 0], evaluation.eval["recall"][:, 0, 0, 0]


def _as_coco(annotations: list[dict], others: list[dict]) -> COCO:
    """The annotations of one class, over all images in which it is annotated or predicted."""
    images = dict.fromkeys(item["image_id"] for item in [*annotations, *others])
    content = {"images": [{"id": image} for image in images], "categories": [{"id": 1}], "annotations": annotations}
    return COCO(content, print_function=_discard)


def _discard(*_: object) -> None:
    """In place of the tool's printing."""

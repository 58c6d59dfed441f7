# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""COCO average precision (AP) and average recall (AR) of scored boxes, by faster-coco-eval.

AP is the area under the precision-recall curve, sampled at 101 recalls, of a class over all images; it is averaged
over the classes and the IoU thresholds .50, .55 … .95 (Lin et al., 2014, and the COCO evaluation server). It rewards
scores that rank correct boxes first, so it is as good as the scores are. With federated ground truth (GT) it is that
of LVIS (Gupta et al., 2019): of an image only the classes count that are known to be present or absent.
"""

import gc
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from coordexp_trl.evaluation.comparison import Comparison
from coordexp_trl.evaluation.samples import ImageDetections

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
ANY_AREA = {"all": (0.0, math.inf)}  # in whatever unit


@dataclass(frozen=True)
class PrecisionCurves:
    """
    Precision and recall of each class; -1 where a class has no GT.

    Args:
        classes (`list[str]`):
            The C classes, those that occur in the GT.
        areas (`list[str]`):
            Names of the A ranges of areas.
        precision (`numpy.ndarray`):
            Precision at 10 IoU thresholds and 101 recalls, shape `(C, 10, 101, A)`.
        recall (`numpy.ndarray`):
            Largest recall with each of the limits on the number of detections, shape `(C, 10, A, L)`.
        limits (`list[int]`):
            These limits.
    """

    classes: list[str]
    areas: list[str]
    precision: np.ndarray
    recall: np.ndarray
    limits: list[int]

    def ap(self, iou: float | None = None, area: str = "all", classes: Collection[str] | None = None) -> float | None:
        """Returns AP at an IoU threshold (default: their mean) over some classes; `None` if none has GT there."""
        rows = [k for k, name in enumerate(self.classes) if classes is None or name in classes]
        values = self.precision[rows, :, :, self.areas.index(area)]
        return _mean(values if iou is None else values[:, [IOU_THRESHOLDS.index(iou)]])

    def ar(self, limit: int | None = None, area: str = "all") -> float | None:
        """Returns AR with at most `limit` detections (default: the largest); `None` if no class has GT there."""
        last = len(self.limits) - 1 if limit is None else self.limits.index(limit)
        return _mean(self.recall[:, :, self.areas.index(area), last])


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
            Number of predictions of each class that count in each image, those with the largest scores; of all classes
            together if the GT is federated.

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
    comparisons = []
    for index, image in enumerate(images):
        try:
            comparisons.append(Comparison(image))
        except ValueError as error:
            raise ValueError(f"images[{index}].{error}") from error
    curves = precision_curves(comparisons, max_detections, ANY_AREA)
    values = {"ap": curves.ap(), "ap50": curves.ap(0.5), "ap75": curves.ap(0.75), "ar": curves.ar()}
    return {name: value or 0.0 for name, value in values.items()}


def precision_curves(
    comparisons: Sequence[Comparison], max_detections: int = 100, areas: dict[str, tuple[float, float]] = AREAS
) -> PrecisionCurves:
    """
    Args:
        comparisons (`Sequence[Comparison]`):
            The images; without scores all predictions are taken to be equally certain.
        max_detections (`int`, *optional*, defaults to `100`):
            See [`average_precision`].
        areas (`dict[str, tuple[float, float]]`, *optional*):
            Ranges of areas by name, in square pixels. Defaults to those of COCO.

    Returns:
        [`PrecisionCurves`]: of all classes in the GT.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections = {max_detections}: must be 1 or more.")
    limits = sorted({1, 10, max_detections} - set(range(max_detections + 1, 11)))
    truths, predictions = defaultdict(list), defaultdict(list)
    with _no_garbage_collection():
        for index, image in enumerate(comparisons):
            _add_truths(truths, index, image)
            _add_predictions(predictions, index, image, max_detections)
        # Class by class: the tool's cost is images times classes, and few images hold a class of an open vocabulary.
        curves = [_evaluate(truths[name], predictions.get(name, []), limits, areas) for name in sorted(truths)]
    shape = (len(IOU_THRESHOLDS), 101, len(areas)), (len(IOU_THRESHOLDS), len(areas), len(limits))
    precision, recall = (np.array([curve[k] for curve in curves]).reshape(-1, *shape[k]) for k in (0, 1))
    return PrecisionCurves(sorted(truths), list(areas), precision, recall, limits)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The tool takes a dictionary for each box; searching them for circles, of which there are none, takes long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mean(values: np.ndarray) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _add_truths(truths: dict[str, list[dict]], index: int, image: Comparison) -> None:
    places = zip(image.gt_keys, _as_xywh(image.truths), image.areas.tolist(), image.crowd.tolist(), strict=True)
    for key, box, area, crowd in places:
        _append(truths[key], index, box, area=area, iscrowd=int(crowd))


def _add_predictions(predictions: dict[str, list[dict]], index: int, image: Comparison, most: int) -> None:
    boxes = _as_xywh(image.boxes)
    order = image.order[np.isfinite(image.boxes.numpy()).all(1)[image.order]]
    if image.known is not None:
        order = order[:most]  # LVIS limits the detections of an image before it looks at their classes
        order = order[image.judged[order]]
    for i in order.tolist():
        score = 1.0 if image.scores is None else float(image.scores[i])
        box = boxes[i]
        _append(
            predictions[image.keys[i]], index, box, area=box[2] * box[3], score=score, lvis_mark=bool(image.open[i])
        )


def _append(annotations: list[dict], index: int, box: list[float], **values: float) -> None:
    # The tool takes a match with id 0 for none, so ids count from 1.
    annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": 1, "bbox": box, **values})


def _as_xywh(boxes) -> list[list[float]]:
    """Boxes as corner and size."""
    boxes = boxes.numpy()
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _evaluate(
    truths: list[dict], predictions: list[dict], limits: list[int], areas: dict[str, tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision `(thresholds, recalls, areas)` and recall `(thresholds, areas, limits)` of one class."""
    evaluation = COCOeval_faster(_as_coco(truths, predictions), _as_coco(predictions, truths), "bbox")
    evaluation.print_function = _discard
    evaluation.params.maxDets = limits
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(each) for each in areas.values()], list(areas)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, :, -1], evaluation.eval["recall"][:, 0]


def _as_coco(annotations: list[dict], others: list[dict]) -> COCO:
    """The annotations of one class, over all images in which it is annotated or predicted."""
    images = dict.fromkeys(item["image_id"] for item in [*annotations, *others])
    content = {"images": [{"id": image} for image in images], "categories": [{"id": 1}], "annotations": annotations}
    return COCO(content, print_function=_discard)


def _discard(*_: object) -> None:
    """In place of the tool's printing."""

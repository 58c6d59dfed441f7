# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The metrics of a data set: F1 with exact counts, AP and AR, sizes, confusions, and how far scores can be trusted."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp_trl.evaluation.average_precision import AREAS, IOU_THRESHOLDS, PrecisionCurves, precision_curves
from coordexp_trl.evaluation.comparison import Comparison, Outcome
from coordexp_trl.evaluation.f1 import DetectionCounts, check_threshold, match_overlaps, same_class_overlaps
from coordexp_trl.evaluation.samples import ImageDetections
from coordexp_trl.evaluation.tie_interval import constant_score_interval

MAX_CONFUSIONS = 50
NUM_SCORE_BINS = 10
STRICT_IOU = 0.75
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class EvaluationSettings:
    """
    How predictions are judged.

    Args:
        iou_threshold (`float`, *optional*, defaults to `0.5`):
            IoU of a true positive in counts that name no threshold.
        duplicate_iou (`float`, *optional*, defaults to `0.7`):
            IoU from which two predictions of a class show the same object.
        max_detections (`int`, *optional*, defaults to `100`):
            Predictions of a class that AP and AR count in an image; all classes together if the GT is federated.
        class_agnostic (`bool`, *optional*, defaults to `False`):
            Whether to ignore the descriptions.

    Raises:
        `ValueError`: if a value is out of range.
    """

    iou_threshold: float = 0.5
    duplicate_iou: float = 0.7
    max_detections: int = 100
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        check_threshold("iou_threshold", self.iou_threshold)
        check_threshold("duplicate_iou", self.duplicate_iou)
        if self.max_detections < 1:
            raise ValueError(f"max_detections = {self.max_detections}: must be 1 or more.")


@dataclass(frozen=True)
class Evaluation:
    """
    What [`evaluate`] found.

    Args:
        metrics (`dict[str, float | int | None]`):
            Numbers by name; `None` where there is nothing to divide by, or AP without scores.
        by_iou (`list[dict]`):
            Counts and ratios at each IoU threshold.
        by_size (`list[dict]`):
            AP, AR and recall of small, medium and large objects.
        classes (`list[dict]`):
            Counts, ratios and AP of each class, that with the most GT objects first.
        outcomes (`list[Outcome]`):
            Of each image, at the main threshold.
        counts (`list[DetectionCounts]`):
            Of each image, at the main threshold.
        reliability (`list[dict]`):
            Scores in ten bins, and the precision of each; empty without scores.
        confusions (`list[dict]`):
            Pairs of descriptions whose boxes match.
        notes (`Counter[str]`):
            What was treated how.
    """

    metrics: dict[str, float | int | None]
    by_iou: list[dict]
    by_size: list[dict]
    classes: list[dict]
    outcomes: list[Outcome]
    counts: list[DetectionCounts]
    reliability: list[dict]
    confusions: list[dict]
    notes: Counter[str]


def evaluate(
    images: Sequence[ImageDetections],
    settings: EvaluationSettings | None = None,
    frequencies: Mapping[str, str] | None = None,
) -> Evaluation:
    """
    Computes all metrics of a data set, boxes in pixels.

    F1, precision and recall come from integer counts ([`~coordexp_trl.evaluation.f1.count_detections`]). Micro figures
    add the counts of all images and classes; macro figures are means over the classes that occur in the GT or among
    the predictions, where a class without true positive counts 0. AP is that of COCO, or of LVIS where the GT is
    federated ([`~coordexp_trl.evaluation.average_precision.average_precision`]); without at least two different scores
    it would be that of an arbitrary order, and is `None`.

    Args:
        images (`Sequence[ImageDetections]`):
            The images; all have scores, or none.
        settings ([`EvaluationSettings`], *optional*):
            How predictions are judged.
        frequencies (`Mapping[str, str]`, *optional*):
            `"r"`, `"c"` or `"f"` (rare, common, frequent) for each class of federated GT, whose AP is given apart.

    Returns:
        [`Evaluation`]

    Raises:
        `ValueError`: if an image is not as [`ImageDetections`] says.
    """
    settings = settings or EvaluationSettings()
    comparisons = [Comparison(image, settings.class_agnostic, settings.duplicate_iou) for image in images]
    notes: Counter[str] = Counter()
    thresholds = sorted({*IOU_THRESHOLDS, settings.iou_threshold})
    outcomes = {iou: [image.outcome(iou) for image in comparisons] for iou in thresholds}
    by_class = {iou: _class_counts(comparisons, outcomes[iou]) for iou in thresholds}
    counts = {iou: list(map(Comparison.counts, comparisons, outcomes[iou])) for iou in thresholds}
    by_iou = [
        {"iou": iou} | _ratios(sum(counts[iou], DetectionCounts())) | _macro(by_class[iou]) for iou in thresholds
    ]
    main = next(row for row in by_iou if row["iou"] == settings.iou_threshold)
    metrics = {name: main[name] for name in ("precision", "recall", "f1", "mean_iou", "duplicate_rate")}
    metrics["f1_75"] = next(row["f1"] for row in by_iou if row["iou"] == STRICT_IOU)
    curves = precision_curves(comparisons, settings.max_detections)
    ranked = _are_ranked(comparisons)
    metrics |= _precision_metrics(curves, ranked)
    for letter, name in FREQUENCIES.items() if frequencies else ():
        members = {key for key, value in frequencies.items() if value == letter}
        metrics[f"ap_{name}"] = curves.ap(classes=members) if ranked else None
    interval = constant_score_interval(comparisons, settings.max_detections)
    metrics["ap_constant_min"], metrics["ap_constant_max"] = interval or (None, None)
    metrics |= _threshold_metrics(by_iou)

    truncated = sum(_truncated(image, settings.max_detections) for image in comparisons)
    if truncated:
        of = "an image" if any(image.known is not None for image in comparisons) else "a class in an image"
        notes[f"predictions beyond {settings.max_detections} of {of}: not in AP and AR, but in F1"] = truncated
    ignored = sum(len(outcome.ignored) for outcome in outcomes[settings.iou_threshold])
    if ignored:
        notes["predictions ignored: in a crowd region, or of a class that the ground truth does not judge"] = ignored
    if not ranked and sum(len(image.keys) for image in comparisons) > 1:
        notes["AP left out, which scores that are missing or all equal leave to the order: see ap_constant_*"] = 1
    reliability, error = _reliability(comparisons, outcomes[settings.iou_threshold]) if ranked else ([], None)
    metrics["ece"] = error
    return Evaluation(
        metrics=metrics,
        by_iou=by_iou,
        by_size=_by_size(comparisons, outcomes[settings.iou_threshold], curves, ranked),
        classes=_class_rows(comparisons, by_class[settings.iou_threshold], curves, ranked),
        outcomes=outcomes[settings.iou_threshold],
        counts=counts[settings.iou_threshold],
        reliability=reliability,
        confusions=_confusions(comparisons, outcomes[settings.iou_threshold], images, settings.iou_threshold),
        notes=notes,
    )


def _class_counts(comparisons: Sequence[Comparison], outcomes: Sequence[Outcome]) -> dict[str, DetectionCounts]:
    tp, predicted, wanted, duplicates = Counter(), Counter(), Counter(), Counter()
    iou_sum, seen = defaultdict(float), Counter()
    for image, outcome in zip(comparisons, outcomes, strict=True):
        keys = image.keys.tolist()
        predicted.update(keys)
        predicted.subtract(keys[i] for i in outcome.ignored)
        own = image.gt_keys[~image.crowd].tolist() if image.crowd.any() else image.gt_keys.tolist()
        wanted.update(own)
        seen.update({*keys, *own})
        duplicates.update(keys[i] for i in outcome.duplicates)
        for i, _, iou in outcome.pairs:
            tp[keys[i]] += 1
            iou_sum[keys[i]] += iou
    names = [name for name in predicted | wanted if predicted[name] > 0 or wanted[name] > 0]
    return {
        name: DetectionCounts(
            tp[name], predicted[name] - tp[name], wanted[name] - tp[name], iou_sum[name], duplicates[name], seen[name]
        )
        for name in names
    }


def _ratios(counts: DetectionCounts) -> dict[str, float]:
    names = ("tp", "fp", "fn", "precision", "recall", "f1", "mean_iou", "duplicates", "duplicate_rate")
    return {name: getattr(counts, name) for name in names}


def _macro(classes: dict[str, DetectionCounts]) -> dict[str, float]:
    names = ("precision", "recall", "f1")
    return {
        f"macro_{name}": float(np.mean([getattr(counts, name) for counts in classes.values()])) if classes else 0.0
        for name in names
    }


def _threshold_metrics(by_iou: list[dict]) -> dict[str, float]:
    names = ("precision", "recall", "f1", "mean_iou", "macro_precision", "macro_recall", "macro_f1")
    metrics = {}
    for iou in (0.5, STRICT_IOU):
        row = next(row for row in by_iou if row["iou"] == iou)
        metrics |= {f"{name}_{iou * 100:.0f}": row[name] for name in (*names, "tp", "fp", "fn")}
    rows = [row for row in by_iou if row["iou"] in IOU_THRESHOLDS]
    return metrics | {f"{name}_50_95": float(np.mean([row[name] for row in rows])) for name in names}


def _are_ranked(comparisons: Sequence[Comparison]) -> bool:
    """Whether there are different scores, or nothing to rank."""
    if sum(len(image.keys) for image in comparisons) < 2:
        return True
    scores = [image.scores for image in comparisons if len(image.keys)]
    return all(each is not None for each in scores) and len(np.unique(np.concatenate(scores))) > 1


def _precision_metrics(curves: PrecisionCurves, ranked: bool) -> dict[str, float | None]:
    metrics = {"ap": curves.ap(), "ap50": curves.ap(0.5), "ap75": curves.ap(0.75)}
    metrics |= {f"ap_{size}": curves.ap(area=size) for size in list(AREAS)[1:]}
    if not ranked:
        metrics = dict.fromkeys(metrics)
    limits = {f"ar_{limit}": curves.ar(limit) if ranked else None for limit in curves.limits}
    return metrics | {"ar": curves.ar()} | limits | {f"ar_{size}": curves.ar(area=size) for size in list(AREAS)[1:]}


def _truncated(image: Comparison, most: int) -> int:
    if image.known is not None:
        return max(len(image.keys) - most, 0)
    return sum(max(count - most, 0) for count in Counter(image.keys.tolist()).values())


def _by_size(
    comparisons: Sequence[Comparison], outcomes: Sequence[Outcome], curves: PrecisionCurves, ranked: bool
) -> list[dict]:
    found, areas = [], []
    for image, outcome in zip(comparisons, outcomes, strict=True):
        hit = np.zeros(len(image.crowd), dtype=bool)
        hit[[j for _, j, _ in outcome.pairs]] = True
        found.append(hit[~image.crowd])
        areas.append(image.areas[~image.crowd])
    found, areas = (np.concatenate(each) if each else np.zeros(0) for each in (found, areas))
    rows = []
    for size, (low, high) in list(AREAS.items())[1:]:
        inside = (areas >= low) & (areas < high)
        ap = curves.ap(area=size) if ranked else None
        recall = float(found[inside].mean()) if inside.any() else None
        rows.append({"size": size, "gt": int(inside.sum()), "ap": ap, "ar": curves.ar(area=size), "recall": recall})
    return rows


def _class_rows(
    comparisons: Sequence[Comparison], classes: dict[str, DetectionCounts], curves: PrecisionCurves, ranked: bool
) -> list[dict]:
    rows = []
    for name, counts in classes.items():
        gt, predictions = counts.tp + counts.fn, counts.tp + counts.fp
        row = {"class": name, "images": counts.images, "gt": gt, "predictions": predictions}
        row |= {key: getattr(counts, key) for key in ("tp", "fp", "fn", "duplicates", "precision", "recall", "f1")}
        row["mean_iou"] = counts.mean_iou if counts.tp else None
        ap = (curves.ap(iou, classes={name}) if ranked and gt else None for iou in (None, 0.5, 0.75))
        rows.append(row | dict(zip(("ap", "ap50", "ap75"), ap, strict=True)))
    return sorted(rows, key=lambda row: (-row["gt"], -row["predictions"], row["class"]))


def _reliability(comparisons: Sequence[Comparison], outcomes: Sequence[Outcome]) -> tuple[list[dict], float | None]:
    """Bins of scores with their precision, and the expected calibration error; nothing if scores leave [0, 1]."""
    scores, right = [], []
    for image, outcome in zip(comparisons, outcomes, strict=True):
        if image.scores is None:
            continue
        hit = np.zeros(len(image.keys), dtype=bool)
        hit[[i for i, _, _ in outcome.pairs]] = True
        judged = np.ones(len(image.keys), dtype=bool)
        judged[outcome.ignored] = False
        scores.append(image.scores[judged])
        right.append(hit[judged])
    scores, right = (np.concatenate(each) if each else np.zeros(0) for each in (scores, right))
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return [], None
    number = np.minimum((scores * NUM_SCORE_BINS).astype(int), NUM_SCORE_BINS - 1)
    rows, error = [], 0.0
    for k in range(NUM_SCORE_BINS):
        inside = number == k
        count = int(inside.sum())
        mean, precision = (float(each[inside].mean()) if count else None for each in (scores, right))
        low, high = k / NUM_SCORE_BINS, (k + 1) / NUM_SCORE_BINS
        rows.append({"low": low, "high": high, "count": count, "mean_score": mean, "precision": precision})
        error += count * abs(mean - precision) if count else 0.0
    return rows, error / len(scores)


def _confusions(
    comparisons: Sequence[Comparison],
    outcomes: Sequence[Outcome],
    images: Sequence[ImageDetections],
    iou_threshold: float,
) -> list[dict]:
    """Objects that were missed where a prediction of another description has found the place."""
    pairs: Counter[tuple[str, str]] = Counter()
    for comparison, outcome, image in zip(comparisons, outcomes, images, strict=True):
        matched, found = {i for i, _, _ in outcome.pairs}, {j for _, j, _ in outcome.pairs}
        wrong = [i for i in range(len(comparison.keys)) if i not in matched and i not in outcome.ignored]
        missed = [j for j in range(len(comparison.gt_keys)) if j not in found and not comparison.crowd[j]]
        if not wrong or not missed:
            continue
        overlaps = same_class_overlaps(comparison.boxes[wrong], comparison.truths[missed])
        for i, j, _ in match_overlaps(overlaps, iou_threshold):
            pairs[image.gt_descs[missed[j]], image.descs[wrong[i]]] += 1
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MAX_CONFUSIONS]
    return [{"ground_truth": gt, "prediction": prediction, "count": count} for (gt, prediction), count in ordered]

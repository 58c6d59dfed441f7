# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Predictions and ground truth (GT), image by image, as evaluation compares them; what was treated how is counted."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coordexp_trl.datasets.conventions import suspect_convention
from coordexp_trl.evaluation.inputs.alignment import align, scale_to
from coordexp_trl.evaluation.inputs.contents import file_digest
from coordexp_trl.evaluation.inputs.convention_check import ComparedBoxes, find_other_convention
from coordexp_trl.evaluation.inputs.ground_truth import GroundTruth, TruthImage, read_ground_truth
from coordexp_trl.evaluation.inputs.predicted import PredictedImage, read_predicted
from coordexp_trl.evaluation.inputs.synonyms import read_synonyms
from coordexp_trl.evaluation.samples import ImageDetections
from coordexp_trl.matching import normalize_desc
from coordexp_trl.yaml_files import nearest


@dataclass(frozen=True)
class EvaluationImage:
    """
    One image.

    Args:
        image (`str`):
            The image as the GT names it.
        image_path (`str`, *optional*):
            Absolute path of its file, where it is known.
        width (`int`), height (`int`):
            Size in pixels, to which all boxes refer.
        detections ([`ImageDetections`]):
            Predictions and GT, boxes in pixels.
        finish_reason (`str`, *optional*):
            Why the completion ended, where it is known.
        dropped (`dict[str, int]`):
            Malformed objects that were left out when the model's text was read, by reason.
    """

    image: str
    image_path: str | None
    width: int
    height: int
    detections: ImageDetections
    finish_reason: str | None = None
    dropped: dict[str, int] = field(default_factory=dict, hash=False)


@dataclass
class EvaluationSet:
    """
    Predictions and GT of a data set.

    Args:
        images (`list[EvaluationImage]`):
            The images of the GT in the order of its file.
        frequencies (`dict[str, str]`):
            Federated GT: `"r"`, `"c"` or `"f"` for each class, as descriptions are compared; else empty.
        notes (`Counter[str]`):
            What was treated how.
        protocol (`dict[str, Any]`):
            Files with their SHA-256, and what was chosen in reading them.
    """

    images: list[EvaluationImage]
    frequencies: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def is_federated(self) -> bool:
        """Whether the GT knows only some classes of each image, as that of LVIS."""
        return any(image.detections.absent is not None for image in self.images)


def read_evaluation_set(
    predictions: str | Path,
    ground_truth: str | Path,
    image_root: str | Path | None = None,
    synonyms: str | Path | None = None,
    classes: Sequence[str] | None = None,
    score_threshold: float | None = None,
    check_convention: bool = True,
    num_bins: int = 1000,
) -> EvaluationSet:
    """
    Reads predictions and GT and brings them together. A GT image without a prediction has none; a prediction for an
    image that the GT does not have is left out; both are counted.

    Args:
        predictions (`str` or `Path`):
            JSONL of predictions, or a JSON list of COCO results.
        ground_truth (`str` or `Path`):
            JSONL of records, COCO instances or LVIS annotations.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start.
        synonyms (`str` or `Path`, *optional*):
            File of descriptions that mean the same, see [`read_synonyms`].
        classes (`Sequence[str]`, *optional*):
            Descriptions to compare; GT and predictions of others are left out.
        score_threshold (`float`, *optional*):
            Predictions with a lower score are left out.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether to stop if predictions and GT seem to follow different conventions of boxes.
        num_bins (`int`, *optional*, defaults to `1000`):
            Bins of coordinate tokens in records.

    Returns:
        [`EvaluationSet`]

    Raises:
        `ValueError`: if a file is malformed, an image stands in a file twice, all predicted images are unknown, sizes
            do not fit, or conventions differ.
    """
    groups = {} if synonyms is None else read_synonyms(synonyms)
    root = None if image_root is None else str(image_root)
    truth = read_ground_truth(ground_truth, root, num_bins)
    predicted = read_predicted(predictions, truth)
    aligned = align(predicted, truth, root)
    notes = Counter(truth.notes)
    notes["ground-truth images without a prediction, taken as empty"] = len(truth.images) - len(aligned)
    notes["predicted images that the ground truth does not have, left out"] = len(predicted.images) - len(aligned)
    for index, item in aligned.items():
        _mend(item, truth.images[index], notes)
    if check_convention:
        pairs = [(item, truth.images[index]) for index, item in sorted(aligned.items())]
        _check_convention(pairs, predicted.path, truth.path)

    chooser = _Descriptions(truth, groups, classes, notes)
    scored = [score is not None for item in aligned.values() for score in item.scores]
    if score_threshold is not None and scored and not any(scored):
        raise ValueError(f"score_threshold = {score_threshold}: {predicted.path} has no scores.")
    images = [
        _joined(image, aligned.get(index), chooser, any(scored) or not scored, score_threshold, notes)
        for index, image in enumerate(truth.images)
    ]
    files = {"predictions": predicted, "ground_truth": truth}
    protocol: dict[str, Any] = {
        name: {"file": item.path, "kind": item.kind, "sha256": file_digest(item.path)} for name, item in files.items()
    }
    protocol["synonyms"] = None if synonyms is None else {"file": str(synonyms), "sha256": file_digest(synonyms)}
    protocol |= {"classes": None if classes is None else list(classes), "score_threshold": score_threshold}
    protocol["check_convention"] = check_convention
    frequencies = {normalize_desc(chooser.name(desc)): value for desc, value in truth.frequencies.items()}
    return EvaluationSet(images, frequencies, +notes, protocol)


class _Descriptions:
    """Names descriptions by their groups and says which ones are compared."""

    def __init__(
        self, truth: GroundTruth, groups: dict[str, str], classes: Sequence[str] | None, notes: Counter[str]
    ) -> None:
        self.groups = groups
        present = {desc for image in truth.images for desc in image.descs}
        known = present | set(truth.categories.values()) if truth.is_closed else present
        self.known = {self.key(desc) for desc in known}
        self.chosen = None if classes is None else {self.key(name) for name in classes}
        for name in classes or ():
            if self.key(name) in self.known:
                continue
            if truth.is_closed or self.chosen.isdisjoint(self.known):
                raise ValueError(
                    f"classes: {truth.path} has no {name!r}{nearest(name, sorted(known | set(groups.values())))}"
                )
            notes["chosen classes that the ground truth does not have"] += 1

    def name(self, desc: str) -> str:
        """The name of a description's group, else the description."""
        return self.groups.get(normalize_desc(desc), desc)

    def key(self, desc: str) -> str:
        """The class of a description."""
        return normalize_desc(self.name(desc))

    def kept(self, descs: Sequence[str]) -> list[int]:
        """Positions of the descriptions that are compared."""
        return [i for i, desc in enumerate(descs) if self.chosen is None or self.key(desc) in self.chosen]


def _mend(item: PredictedImage, image: TruthImage, notes: Counter[str]) -> None:
    """Brings the boxes of a prediction to the GT's size, sorts their corners and makes scores comparable."""
    scale = scale_to(item, image)
    if scale is not None:
        item.boxes = item.boxes * (scale * 2)
        notes["predicted images of another size, boxes scaled to the ground truth's"] += 1
    finite = np.isfinite(item.boxes).all(axis=1)
    notes["boxes that are not finite, wrong wherever they are"] += int((~finite).sum())
    boxes = item.boxes[finite]
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    notes["inverted boxes, corners sorted"] += int((boxes[:, 2:] < boxes[:, :2]).any(axis=1).sum())
    size = np.array([image.width, image.height])
    notes["boxes beyond their image, kept"] += int(((low < -1) | (high > size + 1)).any(axis=1).sum())
    item.boxes[finite] = np.concatenate([low, high], axis=1)
    bad = [i for i, score in enumerate(item.scores) if score is not None and not np.isfinite(score)]
    notes["scores that are not finite, ranked last as 0"] += len(bad)
    for i in bad:
        item.scores[i] = 0.0
    notes["images whose completion was cut at its maximum length"] += item.finish_reason == "length"
    notes["malformed objects that were dropped when the text was read"] += sum(item.dropped.values())


def _check_convention(pairs: Sequence[tuple[PredictedImage, TruthImage]], predictions: str, ground_truth: str) -> None:
    compared = []
    for item, image in pairs:
        single = ~np.array(image.crowd, dtype=bool) if len(image.crowd) else slice(None)
        compared.append(ComparedBoxes(item.boxes, image.boxes[single], (image.width, image.height)))
    truths, sizes = [each.truths for each in compared], [each.size for each in compared]
    found = find_other_convention(compared)
    if found is None and compared:
        lengths = list(map(len, truths))
        suspect = suspect_convention(np.concatenate(truths), np.repeat(sizes, lengths, axis=0))
        found = suspect and f"of the ground truth {suspect}"
    if found is not None:
        raise ValueError(
            f"{predictions}, {ground_truth}: {found} To evaluate them all the same, switch this check off "
            "(check_convention=False, --no-convention-check)."
        )


def _joined(
    image: TruthImage,
    item: PredictedImage | None,
    chooser: _Descriptions,
    has_scores: bool,
    score_threshold: float | None,
    notes: Counter[str],
) -> EvaluationImage:
    if item is None:
        item = PredictedImage("", np.empty((0, 4)), [], [])
    gt_kept, kept = chooser.kept(image.descs), chooser.kept(item.descs)
    notes["ground truth of other classes, left out"] += len(image.descs) - len(gt_kept)
    notes["predictions of other classes, left out"] += len(item.descs) - len(kept)
    if has_scores:
        notes["objects without score beside others with one, ranked last as 0"] += sum(
            item.scores[i] is None for i in kept
        )
    scores = [item.scores[i] or 0.0 for i in kept]
    if score_threshold is not None:
        sure = [k for k, score in enumerate(scores) if score >= score_threshold]
        notes["predictions below the score threshold, left out"] += len(kept) - len(sure)
        kept, scores = [kept[k] for k in sure], [scores[k] for k in sure]
    descs = [chooser.name(item.descs[i]) for i in kept]
    notes["predictions of descriptions that the ground truth nowhere has"] += sum(
        chooser.key(desc) not in chooser.known for desc in descs
    )
    detections = ImageDetections(
        boxes=item.boxes[kept],
        descs=descs,
        scores=scores if has_scores else None,
        gt_boxes=image.boxes[gt_kept],
        gt_descs=[chooser.name(image.descs[i]) for i in gt_kept],
        gt_crowd=[image.crowd[i] for i in gt_kept] if len(image.crowd) else (),
        gt_areas=[image.areas[i] for i in gt_kept] if len(image.areas) else (),
        absent=None if image.absent is None else [chooser.name(desc) for desc in image.absent],
        incomplete=[chooser.name(desc) for desc in image.incomplete],
    )
    path = image.path
    if path is None and item.name is not None and os.path.isabs(item.name):
        path = item.name
    return EvaluationImage(
        image.name, path, image.width, image.height, detections, item.finish_reason, dict(item.dropped)
    )

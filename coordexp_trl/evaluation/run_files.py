# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading what an evaluation, an inference or a training run left in a folder."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.json_lines import box_numbers, need, number, read_json_lines

GT_STATUSES = ("matched", "missed", "ignored")
PREDICTION_STATUSES = ("tp", "fp", "duplicate", "ignored")
CLASS_NUMBERS = (
    "images",
    "gt",
    "predictions",
    "tp",
    "fp",
    "fn",
    "duplicates",
    "precision",
    "recall",
    "f1",
    "mean_iou",
)
CLASS_NUMBERS += ("ap", "ap50", "ap75")


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


@dataclass(frozen=True)
class RunFiles:
    """
    What was found in a folder; what is missing is empty or `None`.

    Args:
        folder (`Path`):
            The folder.
        evaluation (`dict[str, Any]`, *optional*):
            `metrics.json`.
        classes (`list[dict[str, Any]]`):
            Rows of `per_class.csv`.
        images (`list[ImageResult]`):
            Lines of `per_image.jsonl`.
        run (`dict[str, Any]`, *optional*):
            `run.json` of the inference.
        trainer_state (`dict[str, Any]`, *optional*):
            `trainer_state.json` of the folder or its newest checkpoint.
        result (`dict[str, Any]`, *optional*):
            `result.json` of a training run.
    """

    folder: Path
    evaluation: dict[str, Any] | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    images: list[ImageResult] = field(default_factory=list)
    run: dict[str, Any] | None = None
    trainer_state: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


def read_run(folder: str | Path) -> RunFiles:
    """
    Reads the files of a folder that a report shows.

    Args:
        folder (`str` or `Path`):
            Folder of `coordexp eval`, of `coordexp infer`, of a training run, or of several of them.

    Returns:
        [`RunFiles`]: what is there.

    Raises:
        `ValueError`: if there is nothing to show or a file is malformed, naming it and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"run = {str(folder)!r}: is no folder. Name the folder that `coordexp eval --out` wrote.")
    classes, images = folder / "per_class.csv", folder / "per_image.jsonl"
    evaluation = _read_object(folder / "metrics.json")
    if evaluation is not None:
        _check_evaluation(evaluation, folder / "metrics.json")
    found = RunFiles(
        folder=folder,
        evaluation=evaluation,
        classes=_read_classes(classes) if classes.exists() else [],
        images=_read_images(images) if images.exists() else [],
        run=_read_object(folder / "run.json"),
        trainer_state=_read_trainer_state(folder),
        result=_read_object(folder / "result.json"),
    )
    if found.evaluation is None and (found.classes or found.images):
        raise ValueError(
            f"{folder / 'metrics.json'}: no such file, but others of the evaluation are there. Run it again."
        )
    if found.evaluation is None and found.trainer_state is None and found.result is None:
        predictions = folder / "predictions.jsonl"
        if predictions.exists():
            raise ValueError(
                f"{folder}: holds predictions but no evaluation of them. First run `coordexp eval --predictions "
                f"{predictions} --ground-truth FILE --out {folder}`."
            )
        raise ValueError(
            f"{folder}: holds no metrics.json, trainer_state.json or result.json. `coordexp infer` and then `coordexp "
            "eval --out DIR` make an evaluation; the output folder of a training run has curves."
        )
    return found


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file, `None` without the file."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}{line}: invalid JSON ({error}). Run the command that wrote it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}:1: must be a JSON object, got {shorten(content)}.")
    return content


def _check_evaluation(evaluation: dict[str, Any], path: Path) -> None:
    for name, value in need(evaluation, "metrics", dict, f"{path}: ").items():
        if value is not None:
            number(value, f"{path}: metrics.{name}")
    for name in ("by_iou", "by_size", "reliability", "confusions"):
        rows = need({name: [], **evaluation}, name, list, f"{path}: ")
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"{path}: {name}[{index}] = {shorten(row)}: must be a JSON object.")
    for index, row in enumerate(evaluation.get("reliability", [])):
        for key in ("low", "high", "count"):
            number(row.get(key), f"{path}: reliability[{index}].{key}")
    for name in ("counts", "notes", "protocol"):
        need({name: {}, **evaluation}, name, dict, f"{path}: ")


def _read_classes(path: Path) -> list[dict[str, Any]]:
    """The rows of `per_class.csv`; cells that are empty or missing become `None`."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""))
        missing = {"class", "gt"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}:1: has no column {min(missing)!r}. Run `coordexp eval` again.")
        rows = []
        for row in reader:
            numbers = {name: _cell(row.get(name), f"{path}:{reader.line_num}: {name}") for name in CLASS_NUMBERS}
            rows.append({"class": row["class"], **numbers})
        return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no CSV file in UTF-8 ({error}). Run `coordexp eval` again.") from error


def _cell(text: str | None, place: str) -> float | int | None:
    if text is None or text.strip() == "":
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{place} = {shorten(text)}: must be a number. Run `coordexp eval` again.") from None
    return value if math.isfinite(value) else None


def _read_images(path: Path) -> list[ImageResult]:
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


def _read_trainer_state(folder: Path) -> dict[str, Any] | None:
    """`trainer_state.json` of the folder, or of its checkpoint with the most steps."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    checkpoints.sort(key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for place in (folder, *checkpoints):
        path = place / "trainer_state.json"
        state = _read_object(path)
        if state is not None:
            history = need({"log_history": [], **state}, "log_history", list, f"{path}: ")
            for index, entry in enumerate(history):
                if not isinstance(entry, dict):
                    raise ValueError(f"{path}: log_history[{index}] = {shorten(entry)}: must be a JSON object.")
            return state
    return None

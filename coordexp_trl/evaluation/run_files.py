# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading what an evaluation, an inference or a training run left in a folder."""

import csv
import io
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.json_lines import need, number
from coordexp_trl.evaluation.image_results import ImageResult, read_image_results

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
# What is computed with or drawn of the rows of metrics.json, and whether it must be there
_NUMBERS = {
    "by_iou": {"iou": True},
    "reliability": {"low": True, "high": True, "count": True, "precision": False, "mean_score": False},
}


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
            `run.json` of the inference, here or beside the predictions that were evaluated.
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
        images=read_image_results(images) if images.exists() else [],
        run=_read_object(folder / "run.json") or _read_inference(evaluation or {}),
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


def _read_inference(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """`run.json` beside the predictions that were evaluated."""
    predictions = evaluation.get("protocol", {}).get("predictions")
    file = predictions.get("file") if isinstance(predictions, dict) else None
    return _read_object(Path(file).parent / "run.json") if isinstance(file, str) else None


def _check_evaluation(evaluation: dict[str, Any], path: Path) -> None:
    for name, value in need(evaluation, "metrics", dict, f"{path}: ").items():
        if value is not None:
            number(value, f"{path}: metrics.{name}")
    for name in ("by_iou", "by_size", "reliability", "confusions"):
        rows = need({name: [], **evaluation}, name, list, f"{path}: ")
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"{path}: {name}[{index}] = {shorten(row)}: must be a JSON object.")
    for name, keys in _NUMBERS.items():
        for index, row in enumerate(evaluation.get(name, [])):
            for key, is_needed in keys.items():
                if is_needed or row.get(key) is not None:
                    number(row.get(key), f"{path}: {name}[{index}].{key}")
    for name in ("counts", "notes", "protocol"):
        need({name: {}, **evaluation}, name, dict, f"{path}: ")
    for row, name in ((evaluation, "ece"), (evaluation.get("protocol", {}), "iou_threshold")):
        if row.get(name) is not None:
            number(row[name], f"{path}: {name}")


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

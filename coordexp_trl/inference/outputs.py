# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The files that a finished run leaves, and what is said of it."""

import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coordexp_trl.datasets.json_lines import write_json_lines
from coordexp_trl.inference.coco_results import CocoFile, coco_results, ids_of_records
from coordexp_trl.inference.run_journal import JOURNAL, RunJournal, check_settings
from coordexp_trl.predictions import ImagePrediction, read_predictions, write_predictions
from coordexp_trl.records import DetectionRecord

PREDICTIONS = "predictions.jsonl"
COCO_RESULTS = "predictions_coco.json"
COCO_IDS = "predictions_coco_ids.json"
RUN = "run.json"  # written last: what has it is complete
_PACKAGES = ("coordexp-trl", "torch", "transformers", "tokenizers", "accelerate", "peft", "pillow")


@dataclass
class RunSummary:
    """
    What a run found.

    Args:
        out (`Path`):
            Folder of its files.
        images (`int`):
            Images with a prediction.
        objects (`int`):
            Objects found.
        dropped (`Counter[str]`):
            Malformed objects, by reason.
        cut (`int`):
            Images with a completion that was cut at the maximum length.
        skipped (`list[dict]`):
            Images that could not be used, each with `image` and `problem`.
        notes (`Counter[str]`):
            What was treated how.
        seconds (`float`):
            Time that generation took, without the loading of the model; of a resumed run, of its last part.
        images_per_second (`float`):
            Images of all processes in one of these seconds.
        resumed (`int`):
            Images that an earlier run had finished.
        already_finished (`bool`):
            Whether nothing was left to do.
    """

    out: Path
    images: int = 0
    objects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    images_per_second: float = 0.0
    resumed: int = 0
    already_finished: bool = False

    def rows(self) -> list[tuple[str, float]]:
        """The summary as rows of a table."""
        rows = [("images", self.images), ("objects", self.objects)]
        rows += [(f"dropped: {reason}", count) for reason, count in sorted(self.dropped.items())]
        rows += [("images with a cut completion", self.cut)]
        rows += [("images skipped", len(self.skipped))] if self.skipped else []
        rows += [("images finished before", self.resumed)] if self.resumed else []
        rows += [(f"note: {note}", count) for note, count in sorted(self.notes.items())]
        return [*rows, ("seconds", round(self.seconds, 1)), ("images per second", round(self.images_per_second, 2))]


def finished_run(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """
    Args:
        out (`Path`):
            Output folder.
        settings (`dict[str, Any]`):
            The settings of the run to do.

    Returns:
        `dict[str, Any]` or `None`: What `run.json` says if that run is complete already.

    Raises:
        `ValueError`: if the folder holds another run, or predictions of something else.
    """
    if not (out / RUN).exists():
        if (out / PREDICTIONS).exists() and not (out / JOURNAL).exists():
            raise ValueError(
                f"out = {str(out)!r}: has a {PREDICTIONS} but no {RUN}. Choose another folder, or replace the "
                "file with --overwrite."
            )
        return None
    try:
        run = json.loads((out / RUN).read_text(encoding="utf-8"))
        settings_of_run = run["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out / RUN}: is not of `coordexp infer`. Choose another folder, or --overwrite.") from error
    check_settings(settings_of_run, settings, out)
    return run


def start_anew(out: Path) -> None:
    """Removes what an earlier run left in the folder, finished or not."""
    for path in [
        out / RUN,
        *out.glob(".infer*.jsonl"),
        *(out / name for name in (PREDICTIONS, COCO_RESULTS, COCO_IDS)),
    ]:
        path.unlink(missing_ok=True)


def write_results(
    journal: RunJournal, records: Iterable[DetectionRecord], coco_file: CocoFile | None, summary: RunSummary
) -> None:
    """
    Writes the predictions in data order, and as COCO results; what they hold is added to the summary.

    Args:
        journal ([`RunJournal`]):
            The finished images.
        records (`Iterable[DetectionRecord]`):
            The records of the data.
        coco_file ([`CocoFile`], *optional*):
            Ids to use for COCO results.
        summary ([`RunSummary`]):
            The summary to complete.
    """
    for index in sorted(journal.rows):
        row = journal.rows[index]
        if "problem" in row:
            summary.skipped.append({"image": row["image"], "problem": row["problem"]})
    write_predictions(_counted(journal, summary), summary.out / PREDICTIONS)
    summary.notes += write_coco(summary.out, records, coco_file)


def write_coco(out: Path, records: Iterable[DetectionRecord], coco_file: CocoFile | None) -> Counter[str]:
    """Writes COCO results and their ids from the predictions in a folder, and returns what was left out."""
    predictions = read_predictions(out / PREDICTIONS) if (out / PREDICTIONS).stat().st_size else []
    ids = ids_of_records(records, predictions)
    if coco_file is not None:
        ids = coco_file.apply(ids)
    write_json_lines([coco_results(predictions, ids)], out / COCO_RESULTS)
    write_json_lines([{"images": ids.images, "categories": ids.categories}], out / COCO_IDS)
    return ids.notes


def write_run(summary: RunSummary, header: dict[str, Any]) -> None:
    """Writes `run.json`: the header, and the summary."""
    packages = [*_PACKAGES, *(["vllm"] if header["engine"].startswith("vllm") else [])]
    content = {
        **header,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "images": summary.images,
        "objects": summary.objects,
        "seconds": round(summary.seconds, 3),
        "images_per_second": round(summary.images_per_second, 3),
        "images_finished_before": summary.resumed,
        "dropped": dict(summary.dropped),
        "images_with_cut_completion": summary.cut,
        "skipped": summary.skipped,
        "notes": dict(summary.notes),
    }
    temporary = summary.out / f".{RUN}.tmp"
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(summary.out / RUN)


def _counted(journal: RunJournal, summary: RunSummary) -> Iterator[ImagePrediction]:
    for index in sorted(journal.rows):
        prediction = journal.prediction(index)
        if prediction is None:
            continue
        summary.images += 1
        summary.objects += len(prediction.objects)
        summary.dropped.update(prediction.dropped)
        summary.cut += prediction.finish_reason == "length"
        yield prediction


def _version(name: str) -> str | None:
    for distribution in (name, f"{name}-cpu"):
        try:
            return version(distribution)
        except ImportError:  # PackageNotFoundError
            continue
    return None

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""One HTML page about an evaluation and the training run behind it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from coordexp_trl.evaluation.curves import draw_curves
from coordexp_trl.evaluation.panels import COLORS
from coordexp_trl.evaluation.reliability_diagram import draw_reliability
from coordexp_trl.evaluation.report import OVERLAY_LEGEND, Figure, Gallery, Table, write_report
from coordexp_trl.evaluation.run_files import RunFiles, read_run
from coordexp_trl.evaluation.run_gallery import choose_images, draw_images
from coordexp_trl.evaluation.run_tables import evaluation_tables
from coordexp_trl.evaluation.training_tables import loss_rows, result_rows, training_tables

_ORDER = {
    "worst": "Images with the most errors first.",
    "best": "Images with the fewest errors first.",
    "name": "In the order of their names.",
    "random": "Drawn at random.",
}


@dataclass(frozen=True)
class WrittenReport:
    """
    What [`write_run_report`] wrote.

    Args:
        path (`Path`):
            The file.
        num_images (`int`):
            Images in its gallery.
        num_unreadable (`int`):
            Images among them whose file is missing or damaged, drawn on grey.
    """

    path: Path
    num_images: int
    num_unreadable: int


def write_run_report(
    run: str | Path,
    out: str | Path,
    max_images: int = 24,
    sort: str = "worst",
    seed: int = 0,
    image_root: str | Path | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> WrittenReport:
    """
    Writes one HTML file about a run: metrics, curves, and pictures of ground truth beside predictions.

    Args:
        run (`str` or `Path`):
            Folder with what `coordexp eval` wrote (`metrics.json`, `per_class.csv`, `per_image.jsonl`), the `run.json`
            of `coordexp infer`, a training run (`trainer_state.json` or checkpoints, `result.json`), or several of
            them.
        out (`str` or `Path`):
            HTML file to write; missing folders are made. It appears complete or not at all.
        max_images (`int`, *optional*, defaults to `24`):
            Images to show at most.
        sort (`str`, *optional*, defaults to `"worst"`):
            Which to show first: `"worst"`, `"best"`, `"name"` or `"random"`, see
            [`~coordexp_trl.evaluation.run_gallery.choose_images`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random order.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to where the images lay when they were evaluated.
        num_workers (`int`, *optional*):
            Number of threads that draw. Defaults to the number of CPUs.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        [`WrittenReport`]: the file and what is in it.

    Raises:
        `ValueError`: if there is nothing to show, a file is malformed, or an option is wrong.
    """
    found = read_run(run)
    chosen = choose_images(found.images, max_images, sort, seed)
    root = None if image_root is None else Path(image_root)
    if root is not None and not root.is_dir():
        raise ValueError(f"image_root = {str(root)!r}: is no folder.")
    figures, unreadable = draw_images(chosen, root, num_workers, show_progress)

    sections: list[Table | Gallery] = []
    if found.evaluation is not None:
        first, *others = evaluation_tables(found.evaluation, found.classes)
        sections += [first, *others]
        sections += _reliability(found.evaluation)
    sections += _training(found)
    if figures:
        sections.append(_gallery(found, figures, sort, unreadable))
    path = write_report(out, f"Report: {found.folder.resolve().name}", sections, _intro(found), _details(found))
    return WrittenReport(path, len(figures), unreadable)


def _reliability(evaluation: Mapping[str, Any]) -> list[Gallery]:
    bins = evaluation.get("reliability", [])
    if not any(item["count"] for item in bins):
        return []
    note = (
        "Predictions are put into bins by their score. Where the scores mean what they say, precision lies on the "
        "diagonal; above it the model is too modest, below it too sure. ECE is the mean distance, weighted by count."
    )
    picture = draw_reliability(bins, evaluation.get("ece"))
    return [
        Gallery("Reliability of the scores", [Figure(picture, "Precision and number of predictions by score")], note)
    ]


def _training(found: RunFiles) -> list[Table | Gallery]:
    history = (found.trainer_state or {}).get("log_history", [])
    result = found.result or {}
    before, after = result.get("before"), result.get("after")
    results = result_rows(before, after) if isinstance(before, dict) and isinstance(after, dict) else []
    sections: list[Table | Gallery] = []
    for table in training_tables(results, loss_rows(history)):
        if table.rows:
            sections.append(replace(table, title=f"Training: {table.title.lower()}"))
    if history:
        steps = found.trainer_state.get("global_step")
        note = "" if steps is None else f"{steps} optimizer steps."
        sections.append(
            Gallery("Training: curves", [Figure(picture) for picture in draw_curves(history)], note, columns=3)
        )
    return sections


def _gallery(found: RunFiles, figures: list[Figure], sort: str, unreadable: int) -> Gallery:
    note = f"{len(figures)} of {len(found.images)} images. {_ORDER[sort]} Ground truth first, predictions second"
    threshold = found.evaluation.get("protocol", {}).get("iou_threshold")
    note += "." if threshold is None else f", judged at IoU {threshold:g}."
    if unreadable:
        note += (
            f"\n{unreadable} image files could not be read and are drawn on grey; --image-root says where they lie."
        )
    legend = dict(OVERLAY_LEGEND)
    if any(item.status == "ignored" for image in found.images for item in (*image.ground_truth, *image.predictions)):
        legend["ignored: neither right nor wrong"] = COLORS["ignored"]
    return Gallery("Images", figures, note, legend=legend)


def _intro(found: RunFiles) -> str:
    """Model and data, as far as they are known."""
    run, lines = found.run or {}, []
    for name, label in (("model", "Model"), ("adapter", "Adapter"), ("data", "Data")):
        if run.get(name):
            lines.append(f"{label}: {run[name]}")
    cut = Counter(image.finish_reason for image in found.images)["length"]
    if cut:
        lines.append(f"{cut} of {len(found.images)} completions were cut at the length limit.")
    return "\n".join(lines)


def _details(found: RunFiles) -> dict[str, str]:
    """Everything in full, folded up at the end of the page."""
    details = {}
    if found.evaluation is not None:
        details["Protocol of the evaluation"] = found.evaluation.get("protocol")
        details["All metrics"] = found.evaluation["metrics"]
        details["Counts and treatments"] = {key: found.evaluation.get(key) for key in ("counts", "notes")}
    details["Settings of the inference"] = found.run
    details["Result of the training"] = found.result
    texts = {
        name: yaml.safe_dump(value, sort_keys=False, allow_unicode=True) for name, value in details.items() if value
    }
    return texts

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What a finished run leaves: a table on the terminal, `result.json`, curves, pictures and one HTML report."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console
from transformers import Trainer

from coordexp_trl.evaluation.curves import plot_curves
from coordexp_trl.evaluation.pictures import draw_overlay, save_overlays
from coordexp_trl.evaluation.report import OVERLAY_LEGEND, Figure, Gallery, Table, write_report
from coordexp_trl.images import load_image
from coordexp_trl.protocols import ParsedCompletion
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.tables import print_table

# Evaluation metrics in the order of the table; the label of `f1` is completed by the configured threshold.
RESULT_ROWS = {
    "F1@{iou}": "f1",
    "F1@.75": "f1_75",
    "AP": "ap",
    "mean IoU of matches": "mean_iou",
    "precision": "precision",
    "recall": "recall",
    "duplicate rate": "duplicate_rate",
    "misses per image": "objects_missed",
    "objects per image": "objects_predicted",
    "parse rate": "parse_rate",
}
_NOTE = (
    "Greedy rollouts. A prediction counts when description and box (IoU) match one ground-truth object; AP ranks "
    "predictions by the probability of their own tokens."
)


def finish_run(
    trainer: Trainer,
    configs: Mapping[str, object],
    before: dict[str, float] | None,
    after: dict[str, float] | None,
    records: Sequence[DetectionRecord],
    seen_before: Sequence[ParsedCompletion],
    seen_after: Sequence[ParsedCompletion],
) -> None:
    """
    Prints one table and writes `result.json`, `curves.png`, `overlays.png` and `report.html` into the output folder;
    other processes than the first do nothing.

    Args:
        trainer ([`~transformers.Trainer`]):
            The finished trainer.
        configs (`Mapping[str, object]`):
            Resolved options by name, for the report.
        before (`dict[str, float]`, *optional*):
            Evaluation metrics before training; without them the table shows the losses.
        after (`dict[str, float]`, *optional*):
            Evaluation metrics after training.
        records (`Sequence[DetectionRecord]`):
            Records that are drawn.
        seen_before (`Sequence[ParsedCompletion]`):
            What the model wrote for them before training.
        seen_after (`Sequence[ParsedCompletion]`):
            What it wrote afterwards.
    """
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    (folder / "result.json").write_text(json.dumps({"before": before, "after": after}, indent=2), encoding="utf-8")
    history = trainer.state.log_history
    losses = loss_rows(history)
    results = result_rows(before, after, trainer.args.eval_iou_threshold) if before and after else []
    print_table(results or losses, headers=["", "before" if results else "first", "after" if results else "last"])

    curves = plot_curves(history, folder / "curves.png")
    sections = [Table("Evaluation", ["", "before", "after"], results, _NOTE)] if results else []
    sections += [
        Table("Losses", ["", "first log", "last log"], losses),
        Gallery("Curves", [Figure(curves)]),
    ]
    if records:
        shown = [_overlays(trainer, records, seen) for seen in (seen_before, seen_after)]
        save_overlays(shown[1], folder / "overlays.png")
        figures = [
            Figure(picture, f"{record.images[0]}, {when} training")
            for record, *pair in zip(records, *shown, strict=True)
            for picture, when in zip(pair, ("before", "after"), strict=True)
        ]
        note = "Ground truth to the left, predictions to the right in each picture."
        sections.append(Gallery("Predictions", figures, note, columns=2, legend=OVERLAY_LEGEND))
    details = {name: yaml.safe_dump(json.loads(json.dumps(values, default=str))) for name, values in configs.items()}
    report = write_report(
        folder / "report.html",
        f"{trainer._name}: {folder.name}",
        sections,
        f"{trainer.state.global_step} optimizer steps on {len(trainer.records)} pictures.",
        details,
    )
    Console().print(f"Report: {report}", highlight=False, soft_wrap=True)


def loss_rows(history: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float]]:
    """Returns (term, first, last) of a log history."""
    logged = [entry for entry in history if "loss" in entry]
    names = [name for name in (logged[-1] if logged else ()) if name == "loss" or name.startswith("loss/")]
    return [(name, logged[0].get(name, float("nan")), logged[-1][name]) for name in names]


def result_rows(
    before: Mapping[str, float], after: Mapping[str, float], iou_threshold: float
) -> list[tuple[str, float, float]]:
    """Returns (label, before, after) of two evaluations; of several datasets the F1 of each comes last."""
    iou = f"{iou_threshold:g}".lstrip("0")
    rows = [(label.format(iou=iou), before[f"eval_{key}"], after[f"eval_{key}"]) for label, key in RESULT_ROWS.items()]
    datasets = filter(None, (re.fullmatch("eval_(.+)_f1", key) for key in after))
    return rows + [(f"F1@{iou}, {found[1]}", before[found[0]], after[found[0]]) for found in datasets]


def _overlays(
    trainer: Trainer, records: Sequence[DetectionRecord], seen: Sequence[ParsedCompletion]
) -> list[Image.Image]:
    return [
        draw_overlay(
            load_image(record),
            record.objects,
            [DetectionObject(desc=item.desc, bins=item.bins) for item in parsed.objects],
            title=record.images[0],
            grid=trainer.grid,
        )
        for record, parsed in zip(records, seen, strict=True)
    ]

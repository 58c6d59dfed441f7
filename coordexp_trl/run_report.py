# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What a finished run leaves: a table on the terminal, `result.json`, curves, pictures and one HTML report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console
from transformers import Trainer

from coordexp_trl.evaluation.curves import plot_curves
from coordexp_trl.evaluation.pictures import draw_overlay, save_overlays
from coordexp_trl.evaluation.report import OVERLAY_LEGEND, Figure, Gallery, write_report
from coordexp_trl.evaluation.training_tables import loss_rows, result_rows, training_tables
from coordexp_trl.images import load_image
from coordexp_trl.protocols import ParsedCompletion
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.tables import print_table


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
    sections = [*training_tables(results, losses), Gallery("Curves", [Figure(curves)])]
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

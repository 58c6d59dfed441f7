# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Does training wait for its data? The share of a step spent waiting for the loader, and images decoded per second.

Both stages train the tiny detector on CPU, the records read from their file (`RecordFile`), with and without workers.
`time/data` is what the trainers log: how long the step waits for its batches. Stage-1 decodes, resizes and writes the
ground truth in the loader; Stage-2's loader decodes, and a generation is used for `steps_per_generation` steps.

    python benchmarks/dataloader.py --records bccd_train.jsonl      # without --records: drawn pictures
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import torch
from machine import cpu_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl.trainer.utils import identity

from coordexp_trl import CoordExpStage1Config, CoordExpStage1Trainer, CoordExpStage2Config, CoordExpStage2Trainer
from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.tiny import detector_path
from coordexp_trl.trainers.data import RecordDataset

WARM_UP = 2
STAGES = {1: (CoordExpStage1Trainer, CoordExpStage1Config), 2: (CoordExpStage2Trainer, CoordExpStage2Config)}


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


def share(
    stage: int, records: RecordFile, workers: int, args: argparse.Namespace, folder: Path
) -> tuple[float, float]:
    """Seconds a step, and how many of them it waits for data."""
    trainer_class, config_class = STAGES[stage]
    more = {"steps_per_generation": 2, "temperature": 0.0} if stage == 2 else {}
    config = config_class(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=args.batch_size,
        max_steps=args.steps + WARM_UP,
        max_pixels=args.max_pixels,
        max_completion_length=args.max_completion_length,
        too_long="drop",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        **more,
    )
    clock = Clock()
    trainer = trainer_class(str(detector_path()), config, train_dataset=records, callbacks=[clock])
    with contextlib.redirect_stdout(io.StringIO()):  # the logs
        trainer.train()
    waits = [entry["time/data"] for entry in trainer.state.log_history if "loss" in entry][WARM_UP:]
    return (clock.ends[-1] - clock.ends[WARM_UP - 1]) / args.steps, sum(waits) / args.steps


def images_per_second(records: RecordFile, workers: int, count: int) -> float:
    """Images that the loader decodes in a second, the first batch (workers starting) aside."""
    order = [k % len(records) for k in range(count + 8)]
    loader = DataLoader(RecordDataset(records), 8, sampler=order, num_workers=workers, collate_fn=identity)
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    served = sum(len(batch) for batch in batches)
    return served / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="JSONL file; 64 drawn pictures of 480 x 480 by default")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--max_pixels", type=int, default=192 * 192)
    parser.add_argument("--max_completion_length", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--images", type=int, default=400, help="images decoded for the rate")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = args.records or create_shapes(Path(folder, "shapes"), 64, image_size=480)
        records = RecordFile(file)
        rates = {workers: images_per_second(records, workers, args.images) for workers in args.workers}
        shares = {
            (stage, workers): share(stage, records, workers, args, Path(folder))
            for stage in STAGES
            for workers in args.workers
        }
    first = records[0]
    print(
        f"\n{len(records)} records, images of {first.width} x {first.height} ({Path(first.images[0]).suffix}), "
        f"{args.batch_size} a step, at most {args.max_pixels} pixels for the model, {args.steps} steps.\n"
        f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}.\n\n"
        "| stage | workers | s a step | s waiting for data | share |\n| --- | --- | --- | --- | --- |"
    )
    for (stage, workers), (step, wait) in shares.items():
        print(f"| {stage} | {workers} | {step:.3f} | {wait:.4f} | {wait / step:.1%} |")
    print("\n| workers | images decoded a second | by each |\n| --- | --- | --- |")
    for workers, rate in rates.items():
        print(f"| {workers} | {rate:.0f} | {rate / max(workers, 1):.0f} |")


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Time and memory of an optimizer step of Stage-1 against TRL's SFTTrainer, on the same model and the same batches.

The model is the tiny Qwen3-VL with the vocabulary of a real one. Arms: `stage1` is CoordExpStage1Trainer with its
default losses; `dense` is SFTTrainer with the model's own loss, which builds the logits of all positions; `trl` is
SFTTrainer as it is, whose head works in chunks. Every measurement runs in a fresh process, the arms in turn. Peak
memory is the peak resident set size of that process (`ru_maxrss`) minus its value before the first step, so it counts
gradients, optimizer states and activations. Time is the median over the steps but the first two.

    python benchmarks/stage1_step.py     # goal: time <= 100 % and memory <= 60 % of the dense arm
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from machine import cpu_model
from transformers import Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from coordexp_trl import CoordExpStage1Config, CoordExpStage1Trainer
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.records import read_records
from coordexp_trl.tiny import (
    DETECTOR_SCENES,
    build_tiny_config,
    build_tiny_model,
    build_tiny_processor,
    build_tiny_tokenizer,
)

ARMS = ("dense", "trl", "stage1")
WARM_UP = 2


class DenseTrainer(SFTTrainer):
    """SFTTrainer with the loss of the model's own forward."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)


def make_trainer(args: argparse.Namespace, folder: Path, clock: Clock) -> Trainer:
    records = read_records(create_shapes(folder / "shapes", 2 * args.batch_size, **DETECTOR_SCENES))
    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(tokenizer, hidden_size=args.hidden_size)
    config.text_config.vocab_size = args.vocab_size  # padded, as real checkpoints are
    model = build_tiny_model(config, tokenizer)
    model.save_pretrained(folder / "model")
    build_tiny_processor(tokenizer).save_pretrained(folder / "model")
    options = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": args.batch_size,
        "max_steps": args.steps + WARM_UP,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "max_length": None,
    }
    ours = CoordExpStage1Trainer(
        str(folder / "model"), CoordExpStage1Config(**options), train_dataset=records, callbacks=[clock]
    )
    if args.arm == "stage1":
        return ours
    collate = ours.data_collator
    trainer_class = DenseTrainer if args.arm == "dense" else SFTTrainer
    return trainer_class(
        str(folder / "model"),
        SFTConfig(**options, train_sampling_strategy="group_by_length"),
        data_collator=lambda rows: {
            name: value for name, value in collate(rows).items() if name not in ("supervision", "counts")
        },
        train_dataset=Dataset.from_dict(ours.train_dataset.to_dict()),
        processing_class=ours.processing_class,
        callbacks=[clock],
    )


def measure(args: argparse.Namespace) -> dict:
    """Seconds a step and extra bytes of one arm in this process."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, Path(folder), clock)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(clock.seconds[WARM_UP:]), "extra": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab_size", type=int, default=152_670)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each arm; the medians are reported")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measure(args)))
        return

    sizes = [f"--{name}={getattr(args, name)}" for name in ("vocab_size", "hidden_size", "batch_size", "steps")]
    results = {arm: [] for arm in ARMS}
    for _ in range(args.repeats):
        for arm in ARMS:
            command = [sys.executable, str(Path(__file__).resolve()), *sizes, f"--arm={arm}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[arm].append(json.loads(output.splitlines()[-1]))
    median = {
        arm: {key: statistics.median(result[key] for result in results[arm]) for key in ("seconds", "extra")}
        for arm in ARMS
    }
    print(
        f"Tiny Qwen3-VL of width {args.hidden_size}, vocabulary {args.vocab_size}, {args.batch_size} pictures a step, "
        f"float32, medians of {args.repeats} runs of {args.steps} steps.\n"
        f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}.\n\n"
        "| arm | s a step | of dense | peak MiB | of dense |\n| --- | --- | --- | --- | --- |"
    )
    for arm in ARMS:
        seconds, extra = median[arm]["seconds"], median[arm]["extra"]
        print(
            f"| {arm} | {seconds:.2f} | {seconds / median['dense']['seconds']:.1%} "
            f"| {extra / 2**20:.0f} | {extra / median['dense']['extra']:.1%} |"
        )


if __name__ == "__main__":
    main()

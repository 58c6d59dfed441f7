# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The sample table of completions."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers import TrainerCallback
from trl.trainer.utils import print_prompt_completions_sample

from coordexp_trl.records import DetectionRecord
from coordexp_trl.trainers.stage2_config import CoordExpStage2Config
from coordexp_trl.trainers.trackers import log_table


class CompletionTable:
    """
    Completions of the latest generation on this process, printed and written as TRL does.

    Args:
        args ([`CoordExpStage2Config`]):
            Gives the output folder and the number of completions to print.
    """

    def __init__(self, args: CoordExpStage2Config):
        self.folder = Path(args.output_dir) / "completions"
        self.num_to_print = args.num_completions_to_print
        self.rows: dict[str, list] = {}

    def replace(
        self,
        records: Sequence[DetectionRecord],
        completions: Sequence[str],
        ground_truths: Sequence[str],
        f1: Sequence[float],
    ) -> None:
        """
        Args:
            records (`Sequence[DetectionRecord]`):
                Record of each completion.
            completions (`Sequence[str]`):
                Completions, special tokens included.
            ground_truths (`Sequence[str]`):
                Ground truth of each in the same text form.
            f1 (`Sequence[float]`):
                F1 of each at the matching gate.
        """
        self.rows = {
            "image": [record.images[0] for record in records],
            "completion": list(completions),
            "ground_truth": list(ground_truths),
            "f1": list(f1),
        }

    def show(self, step: int, callbacks: Sequence[TrainerCallback]) -> None:
        """
        Prints a sample, writes all rows to `completions/completions_{step}.parquet` and sends them to W&B and trackio.

        Args:
            step (`int`):
                Optimizer steps done.
            callbacks (`Sequence[TrainerCallback]`):
                Callbacks of the trainer.
        """
        if not self.rows:
            return
        print_prompt_completions_sample(
            self.rows["image"],
            self.rows["completion"],
            {"f1": self.rows["f1"]},
            None,
            step,
            self.num_to_print,
            extra={"ground_truth": self.rows["ground_truth"]},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"step": [step] * len(self.rows["image"]), **self.rows})
        table.to_parquet(self.folder / f"completions_{step:05d}.parquet")
        log_table(callbacks, "completions", table, step)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the trackers of `report_to` are given beside the numbers, which the Trainer sends: pictures and tables."""

from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from PIL import Image
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import default_logdir

TAKE_PICTURES = (TensorBoardCallback, WandbCallback, TrackioCallback)
STEP = "train/global_step"  # what the callbacks of W&B and trackio log the Trainer's step as


def keep_one_run(callbacks: Sequence[TrainerCallback], args: TrainingArguments) -> None:
    """
    Makes evaluations before and after training part of the run: left alone, TensorBoard's callback would begin in
    `./runs` with the first, and trackio's would begin another run with the second.

    Args:
        callbacks (`Sequence[TrainerCallback]`):
            Callbacks of the trainer.
        args ([`~transformers.TrainingArguments`]):
            Its configuration; given a `run_name` where trackio needs one.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(Path(args.output_dir, default_logdir()))
        if isinstance(callback, TrackioCallback) and args.run_name is None:
            args.run_name = f"{Path(args.output_dir).resolve().name}-{datetime.now():%Y%m%d-%H%M%S}"


def log_pictures(
    callbacks: Sequence[TrainerCallback], name: str, pictures: Sequence[tuple[str, Image.Image]], step: int
) -> None:
    """
    Sends pictures to every tracker that takes some, after the Trainer has logged to it; for the main process.

    Args:
        callbacks (`Sequence[TrainerCallback]`):
            Callbacks of the trainer.
        name (`str`):
            Name of the series, such as `"eval/overlays"`; each picture has its number behind it.
        pictures (`Sequence[tuple[str, PIL.Image.Image]]`):
            Captions and RGB pictures.
        step (`int`):
            Optimizer steps done.
    """
    # trackio shows the number of its own calls as the step
    numbered = [(f"{name}/{k}", f"{caption} (step {step})", item) for k, (caption, item) in enumerate(pictures)]
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            for tag, _, picture in numbered:
                callback.tb_writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")
            callback.tb_writer.flush()
    for tracker in _media_trackers(callbacks):
        # A name for each: trackio takes no lists, and W&B expects the pictures of one to be equal in size
        images = {tag: tracker.Image(picture, caption=caption) for tag, caption, picture in numbered}
        tracker.log({**images, STEP: step})


def log_table(callbacks: Sequence[TrainerCallback], name: str, table: pd.DataFrame, step: int) -> None:
    """
    Sends a table to W&B and trackio, after the Trainer has logged to them; for the main process.

    Args:
        callbacks (`Sequence[TrainerCallback]`):
            Callbacks of the trainer.
        name (`str`):
            Name of the series, such as `"completions"`.
        table (`pandas.DataFrame`):
            The table.
        step (`int`):
            Optimizer steps done.
    """
    for tracker in _media_trackers(callbacks):
        tracker.log({name: tracker.Table(dataframe=table), STEP: step})


def _media_trackers(callbacks: Sequence[TrainerCallback]) -> list[ModuleType]:
    """The modules of W&B and trackio, which share one interface, as far as they are in use."""
    names = {WandbCallback: "wandb", TrackioCallback: "trackio"}
    return [import_module(name) for kind, name in names.items() if any(isinstance(item, kind) for item in callbacks)]

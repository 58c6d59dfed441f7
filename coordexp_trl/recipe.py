# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the recipes share: options, configuration files, data, the plan of a run, and what a finished run leaves."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from torch.utils.data import ConcatDataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, TrlParser, get_peft_config

from coordexp_trl.datasets.fusion import FusionDataset, is_fusion_file, load_fusion
from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.datasets.record_views import JoinedRecords
from coordexp_trl.images import check_images
from coordexp_trl.records import DetectionRecord
from coordexp_trl.run_report import finish_run
from coordexp_trl.tables import print_table
from coordexp_trl.yaml_files import check_keys, compose_mapping, nearest


@dataclass
class RecipeArguments:
    """
    Options of a run that belong to neither the model nor the trainer.

    Args:
        train_file (`str`):
            JSONL file of training records, or a fusion of several: a file that ends in `.yaml` or `.yml`, see
            [`read_fusion`].
        eval_file (`str`, *optional*):
            JSONL file of evaluation records, or a fusion, whose `val_jsonl` files are evaluated.
        image_root (`str`, *optional*):
            Folder that relative image paths start from; the JSONL file's own folder by default. A source of a fusion
            may name its own.
        check_images (`bool`, *optional*, defaults to `True`):
            Whether to decode every image once before training begins.
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the resolved configuration and the plan, then stop.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether an output folder that holds another run may be written to.
        num_overlays (`int`, *optional*, defaults to `8`):
            Evaluation pictures drawn after the run.
    """

    train_file: str = field(metadata={"help": "JSONL file of training records, or a fusion (.yaml)."})
    eval_file: str | None = field(
        default=None, metadata={"help": "JSONL file of evaluation records, or a fusion (.yaml)."}
    )
    image_root: str | None = field(
        default=None, metadata={"help": "Folder that relative image paths start from; the JSONL's folder by default."}
    )
    check_images: bool = field(
        default=True, metadata={"help": "Whether to decode every image once before training begins."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the resolved configuration and the plan, then stop."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Whether an output folder that holds another run may be written to."}
    )
    num_overlays: int = field(default=8, metadata={"help": "Evaluation pictures drawn after the run."})


class RecipeParser(TrlParser):
    """TRL's parser, which names the line and the nearest known option when it meets an unknown one."""

    def parse_args_and_config(self, args: Iterable[str] | None = None, **kwargs) -> tuple:
        """See [`~trl.TrlParser.parse_args_and_config`]."""
        args = list(sys.argv[1:] if args is None else args)
        # TRL knows `--config FILE`, not `--config=FILE`
        args = [part for item in args for part in (item.split("=", 1) if item.startswith("--config=") else [item])]
        known = {action.dest for action in self._actions}
        if args[-1:] == ["--config"]:
            raise ValueError("--config needs the name of a YAML file.")
        if "--config" in args:
            path = Path(args[args.index("--config") + 1])
            if not path.is_file():
                raise ValueError(f"config={str(path)!r}: no such file.")
            check_keys(path, compose_mapping(path, "`option: value` lines"), known | {"env"})
        for argument in args:
            name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
            if (
                argument.startswith("--")
                and name not in known | {"config"}
                and argument not in self._option_string_actions
            ):
                raise ValueError(f"unknown option {argument!r}{nearest(name, known, '--')}")
        return super().parse_args_and_config(args, **kwargs)

    def error(self, message: str) -> None:
        """Reports a mistake in one line, without the usage of some two hundred options."""
        raise ValueError(f"{message}. All options: --help.")


def launch_on_cpu(script: str | os.PathLike, *options: object) -> None:
    """
    Runs a recipe in one process on all cores of this machine, as `accelerate launch` does; exits with its status if
    it fails.

    Args:
        script (`str` or `os.PathLike`):
            The recipe.
        options (`object`):
            Its arguments.
    """
    single = "launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    threads = ["--num_cpu_threads_per_process", len(os.sched_getaffinity(0))]
    accelerate = Path(sys.executable).with_name("accelerate")
    command = [str(part) for part in (accelerate, *single, *threads, script, *options)]
    print(" ".join(command), flush=True)
    if status := subprocess.run(command, env={**os.environ, "ACCELERATE_USE_CPU": "true"}).returncode:
        sys.exit(status)


def run_recipe(main: Callable[[], None]) -> None:
    """
    Runs a recipe's main function; a mistake of the user, or a loss that is not finite, is printed without a traceback
    (unless `COORDEXP_DEBUG=1` is in the environment) and exits with status 2.

    Args:
        main (`Callable`):
            The recipe.
    """
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("COORDEXP_DEBUG", "0") not in ("", "0"):
            raise
        state = PartialState()
        place = "" if state.is_main_process else f"[process {state.process_index}] "
        print(f"{place}error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(trainer_class: type[Trainer], config_class: type[TrainingArguments]) -> None:
    """
    The body of a recipe: parse, load, evaluate, train, evaluate, save, draw.

    Args:
        trainer_class (`type`):
            [`CoordExpStage1Trainer`] or [`CoordExpStage2Trainer`].
        config_class (`type`):
            Its configuration.
    """
    parser = RecipeParser((RecipeArguments, config_class, ModelConfig))
    recipe_args, training_args, model_args = parser.parse_args_and_config()
    if model_args.model_name_or_path is None:
        raise ValueError("model_name_or_path is not set: give a checkpoint that speaks coordinate tokens.")
    check_output_dir(training_args, recipe_args.overwrite_output_dir)
    train_records, eval_records = load_records(recipe_args)

    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = trainer_class(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_records,
        eval_dataset=eval_records,
        peft_config=get_peft_config(model_args),
    )
    if recipe_args.dry_run:
        return print_plan(trainer, (recipe_args, training_args, model_args))

    with closing(trainer):
        drawn = _first_records(eval_records, recipe_args.num_overlays)
        before, seen_before = (trainer.evaluate(), trainer.detect(drawn)) if eval_records else (None, [])
        trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        after, seen_after = (trainer.evaluate(), trainer.detect(drawn)) if eval_records else (None, [])

        trainer.save_model()
        trainer.save_state()
        configs = {type(config).__name__: _options(config) for config in (recipe_args, training_args, model_args)}
        finish_run(trainer, configs, before, after, drawn, seen_before, seen_after)


def load_records(args: RecipeArguments) -> tuple[Sequence[DetectionRecord], Sequence[DetectionRecord] | None]:
    """
    Args:
        args ([`RecipeArguments`]):
            File names and checks.

    Returns:
        Training and evaluation records, all validated and none in memory; their images checked on the main process of
        each machine.
    """
    train = _open_records(args.train_file, "train", args.image_root)
    evaluation = None if args.eval_file is None else _open_records(args.eval_file, "val", args.image_root)
    if args.check_images and PartialState().is_local_main_process:
        check_images(ConcatDataset([train] if evaluation is None else [train, evaluation]))
    return train, evaluation


def _open_records(path: str, split: str, image_root: str | None) -> Sequence[DetectionRecord]:
    is_main = PartialState().is_local_main_process
    if is_fusion_file(path):
        return load_fusion(path, split, image_root, verbose=is_main)
    return RecordFile(path, image_root, show_progress=is_main)


def _first_records(records: Sequence[DetectionRecord] | None, count: int) -> list[DetectionRecord]:
    """Returns the first records, of each dataset if there are several."""
    if isinstance(records, JoinedRecords):
        return records.first_of_each(count)
    return [] if records is None else list(records[:count])


def check_output_dir(args: TrainingArguments, overwrite: bool) -> None:
    """
    Refuses to mix two runs in one folder.

    Args:
        args ([`~transformers.TrainingArguments`]):
            Gives `output_dir` and `resume_from_checkpoint`.
        overwrite (`bool`):
            Whether the user allowed it.

    Raises:
        `ValueError`: If the folder holds a run that is not being resumed, or nothing to resume from.
    """
    folder = Path(args.output_dir)
    checkpoint = get_last_checkpoint(args.output_dir) if folder.is_dir() else None
    if args.resume_from_checkpoint in ("false", "False", False):
        args.resume_from_checkpoint = None
    elif args.resume_from_checkpoint in ("true", "True", True):
        if checkpoint is None:
            raise ValueError(f"resume_from_checkpoint is true but output_dir={str(folder)!r} holds no checkpoint.")
        args.resume_from_checkpoint = checkpoint
    holds_run = checkpoint is not None or (folder / "trainer_state.json").exists() or (folder / "config.json").exists()
    if holds_run and not args.resume_from_checkpoint and not overwrite:
        raise ValueError(
            f"output_dir={str(folder)!r} already holds a run. Continue it with --resume_from_checkpoint true, choose "
            "another --output_dir, or allow overwriting with --overwrite_output_dir."
        )


def print_plan(trainer: Trainer, configs: Iterable[Any]) -> None:
    """
    Prints the resolved configuration and what the run will do.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, not started.
        configs (`Iterable`):
            Dataclasses whose fields are the configuration.
    """
    if not trainer.is_world_process_zero():
        return
    for config in configs:
        print(f"# {type(config).__name__}")
        values = json.loads(json.dumps(_options(config), default=str))
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    print_table(plan_rows(trainer), headers=["plan", "value"])


def _options(config: Any) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.init}


def plan_rows(trainer: Trainer) -> list[tuple[str, str]]:
    """
    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, not started.

    Returns:
        `list[tuple[str, str]]`: What will be trained, in which batches, and the memory that the model's states take
        on one process, see [`state_memory`].
    """
    args = trainer.args
    images = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    records = trainer.records
    fusion = records if isinstance(records, FusionDataset) else None
    epoch = fusion.epoch_length if fusion else len(records)
    steps_per_epoch = -(-epoch // images)
    steps = args.max_steps if args.max_steps > 0 else int(steps_per_epoch * args.num_train_epochs)
    parameters = list(trainer.model.parameters())
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    weights, gradients, moments = state_memory(trainer.model)
    prompt_lengths = trainer.record_lengths[:, 0]
    gigabyte = 1024**3
    return [
        ("training images", f"{len(records)}"),
        *_source_rows(fusion),
        ("processes", f"{args.world_size}"),
        ("images per optimizer step", f"{images}"),
        ("optimizer steps", f"{steps} ({steps / steps_per_epoch:.1f} epochs)"),
        ("prompt tokens (mean, longest)", f"{prompt_lengths.mean():.0f}, {prompt_lengths.max()}"),
        ("parameters (all, learning)", f"{sum(map(torch.numel, parameters)):,}, {sum(map(torch.numel, learning)):,}"),
        ("memory of weights", f"{weights / gigabyte:.2f} GiB"),
        ("memory of gradients", f"{gradients / gigabyte:.2f} GiB"),
        ("memory of AdamW", f"{moments / gigabyte:.2f} GiB"),
    ]


def state_memory(model: torch.nn.Module) -> tuple[int, int, int]:
    """
    Args:
        model (`torch.nn.Module`):
            Model, with what learns marked by `requires_grad`.

    Returns:
        `tuple[int, int, int]`: Bytes of the weights, of the gradients, and of AdamW's two moments; gradients and
        moments have the dtype of their parameter. Activations come on top.
    """
    parameters = list(model.parameters())
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    weights, gradients = (sum(item.numel() * item.element_size() for item in each) for each in (parameters, learning))
    return weights, gradients, 2 * gradients


def _source_rows(fusion: FusionDataset | None) -> list[tuple[str, str]]:
    if fusion is None:
        return []
    parts = zip(fusion.parts.items(), fusion.quotas, strict=True)
    rows = [(f"of {name}", f"{quota} of {len(part)} an epoch") for (name, part), quota in parts]
    return [("images an epoch", f"{fusion.epoch_length}"), *rows]

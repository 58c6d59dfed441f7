# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Stage-2 runs that one process and two processes must agree on."""

from collections.abc import Callable

import torch
from peft import LoraConfig
from toys import (
    PLAIN_SGD,
    NoisyEngine,
    ScriptedEngine,
    logged,
    make_stage2_trainer,
    only,
    outcome,
    parameters_of,
    writer,
)

from coordexp_trl.datasets.fusion import FusionDataset, FusionSource
from coordexp_trl.trainers import stage2_trainer

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
NUM_RECORDS = 8
# By whatever processes, the second half of the records belongs to the last one
GARBAGE = [5, 6, 7] * 4


def build(checkpoint, records, folder, processes, **options):
    options = {"gradient_accumulation_steps": 2, "max_steps": 1, "ddp_timeout": 60} | PLAIN_SGD | options
    options.setdefault(
        "per_device_train_batch_size", NUM_RECORDS // (processes * options["gradient_accumulation_steps"])
    )
    trainer = make_stage2_trainer(checkpoint, records, folder, **options)
    assert trainer.accelerator.num_processes == processes
    return trainer


def step(adapters: bool = False, garbage: bool = False, **options) -> Callable:
    """One optimizer step; with `garbage` the second half of the rollouts cannot be parsed."""

    def scenario(checkpoint, records, folder, processes):
        peft_config = LoraConfig(**LORA) if adapters else None
        trainer = build(
            checkpoint, records, folder, processes, trainer_options={"peft_config": peft_config}, **options
        )
        if garbage:
            write, bad = writer(trainer), {record.images for record in records[NUM_RECORDS // 2 :]}
            ScriptedEngine(trainer, records, lambda record: GARBAGE if record.images in bad else write(record))
        start = parameters_of(trainer.model)
        trainer.train()
        return {"start": start, **outcome(trainer)}

    return scenario


def broken_loss(checkpoint, records, folder, processes):
    """The last process has a loss that is not a number in the second step."""
    trainer = build(checkpoint, records, folder, processes, max_steps=3)
    terms, before = stage2_trainer.loss_terms, {}

    def broken(*args):
        sums, diagnostics = terms(*args)
        if trainer._step == 3:
            before.update(parameters_of(trainer.model))
            if trainer.accelerator.process_index == processes - 1:
                sums["coord_ce"] = sums["coord_ce"] * torch.nan
        return sums, diagnostics

    stage2_trainer.loss_terms, message = broken, None
    try:
        trainer.train()
    except FloatingPointError as error:
        message = str(error)
    finally:
        stage2_trainer.loss_terms = terms
    return {"message": message, "start": before, **outcome(trainer)}


def evaluation(checkpoint, records, folder, processes):
    """Five records in batches of two: the last batches are filled up with repeated records."""
    trainer = build(
        checkpoint,
        records,
        folder,
        processes,
        trainer_options={"eval_dataset": {"five": records[:5], "one": records[5:6]}},
        per_device_eval_batch_size=2,
        report_to="tensorboard",
        log_overlays=6,
    )
    clock = ("time", "per_second")
    return {name: value for name, value in trainer.evaluate().items() if not any(word in name for word in clock)}


def resumed(lost_rank: int | None = None, fused: bool = False) -> Callable:
    """
    A run of two epochs, and its continuation from inside a generation of the second one; `fused`, an epoch takes 2 of
    the first 4 records, and 4 of the other 2.
    """

    def scenario(checkpoint, records, folder, processes):
        options = {
            "scripted": False,
            "max_steps": -1,
            "num_train_epochs": 2,
            "steps_per_generation": 2,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "shuffle_dataset": True,
            "optim": "adamw_torch",
            "learning_rate": 1e-3,
        }

        sources = [FusionSource("large", ratio=0.5), FusionSource("small", ratio=2.0)]
        data = FusionDataset(sources, [records[:4], records[4:6]]) if fused else records[:6]

        def start(name, **more):
            trainer = build(checkpoint, data, folder / name, processes, **options, **more)
            NoisyEngine(trainer, records)
            return trainer

        whole = start("whole", save_strategy="steps", save_steps=1)
        whole.train()
        whole.accelerator.wait_for_everyone()
        last = whole.state.global_step
        saved = folder / "whole" / f"checkpoint-{last - 1}"
        if whole.accelerator.process_index == lost_rank:
            (saved / f"rollouts_{lost_rank}.json").unlink()
        whole.accelerator.wait_for_everyone()
        again = start("again")
        again.train(resume_from_checkpoint=str(saved))
        return {
            "last": last,
            "generations": len(again.engine.calls),
            "expected": logged(whole, last),
            "actual": logged(again, last),
            "weights": parameters_of(whole.model),
            "resumed_weights": parameters_of(again.model),
        }

    return scenario


def corrupt_image(checkpoint, records, folder, processes):
    """The last process meets a picture that cannot be decoded, and raises."""
    trainer = build(checkpoint, records, folder, processes)
    for record in records[NUM_RECORDS // 2 :]:
        record.image_path.write_bytes(b"no picture")
    trainer.train()


STAGE2 = {
    "two_sequence": step(),
    "appended": step(mode="appended"),
    "expert_checkpointing": step(mode="expert", gradient_checkpointing=True),
    "frozen_tower": step(freeze=["vision_tower", "projector"], gradient_checkpointing=True),
    "adapters": step(adapters=True, learning_rate=1.0),
    "adapters_checkpointing": step(adapters=True, gradient_checkpointing=True, learning_rate=1.0),
    "garbage": step(garbage=True),
    # The last process has nothing at all to learn, and no unused parameter is looked for
    "garbage_geometry": step(
        garbage=True, gradient_checkpointing=True, **(only("bbox_l1_weight") | {"learning_rate": 1.0})
    ),
    "broken_loss": broken_loss,
    "evaluation": evaluation,
    "resumed": resumed(),
    "resumed_partly": resumed(lost_rank=1),
    "resumed_fusion": resumed(fused=True),
    "corrupt_image": corrupt_image,
}

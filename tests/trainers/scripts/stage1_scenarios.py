# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Stage-1 runs that one process and two processes must agree on."""

import dataclasses
from collections.abc import Callable

import torch
from peft import LoraConfig
from toys import PLAIN_SFT, PLAIN_SGD, logged, make_stage1_trainer, outcome, parameters_of

from coordexp_trl.datasets.fusion import FusionDataset, FusionSource
from coordexp_trl.trainers import stage1_trainer

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def build(checkpoint, records, folder, processes, batch_size: int = 4, **options):
    """A trainer on batches of `batch_size` records over all processes."""
    defaults = {"gradient_accumulation_steps": 2, "num_train_epochs": 1, "ddp_timeout": 60} | PLAIN_SGD
    trainer = make_stage1_trainer(
        checkpoint, records, folder, **(defaults | options), per_device_train_batch_size=batch_size // processes
    )
    assert trainer.accelerator.num_processes == processes
    return trainer


def epoch(adapters: bool = False, number: int = 8, without_objects: slice | None = None, **options) -> Callable:
    """One epoch; the records `without_objects` have none."""

    def scenario(checkpoint, records, folder, processes):
        records = list(records[:number])
        if without_objects is not None:
            records[without_objects] = [dataclasses.replace(record, objects=()) for record in records[without_objects]]
        lora = {"peft_config": LoraConfig(**LORA)} if adapters else {}
        trainer = build(checkpoint, records, folder, processes, trainer_options=lora, **options)
        start = parameters_of(trainer.model)
        trainer.train()
        return {"start": start, **outcome(trainer)}

    return scenario


def plain(checkpoint, records, folder, processes):
    """Plain fine-tuning, a mean over batches: one process takes in turn those that two take at once."""
    options = {"batch_size": 2 * processes, "gradient_accumulation_steps": 2 // processes, **PLAIN_SFT}
    result = epoch(**options)(checkpoint, records, folder, processes)
    # TRL's own figures are means over batches, or over tokens
    result["logs"] = [{name: entry[name] for name in ("loss", "grad_norm", "num_tokens")} for entry in result["logs"]]
    return result


def broken_loss(checkpoint, records, folder, processes):
    """The last process has a loss that is not a number in the second step."""
    trainer = build(checkpoint, records, folder, processes, batch_size=2)
    terms, calls, before = stage1_trainer.loss_terms, [], {}

    def broken(*args):
        sums, diagnostics = terms(*args)
        calls.append(1)
        if len(calls) == 3:
            before.update(parameters_of(trainer.model))
            if trainer.accelerator.process_index == processes - 1:
                sums["coord_ce"] = sums["coord_ce"] * torch.nan
        return sums, diagnostics

    stage1_trainer.loss_terms, message = broken, None
    try:
        trainer.train()
    except FloatingPointError as error:
        message = str(error)
    finally:
        stage1_trainer.loss_terms = terms
    return {"message": message, "start": before, **outcome(trainer)}


def resumed_fusion(checkpoint, records, folder, processes):
    """As [`resumed`]; an epoch takes 3 of the first 6 records, and 5 of the last 2."""
    sources = [FusionSource("large", ratio=0.5), FusionSource("small", ratio=2.5)]
    fusion = FusionDataset(sources, [records[:6], records[6:]])
    drawn = [fusion.epoch_indices(epoch, seed=42).tolist() for epoch in range(2)]
    return {"drawn": drawn, **resumed(checkpoint, fusion, folder, processes)}


def resumed(checkpoint, records, folder, processes):
    """
    Two epochs of records of like length, and their continuation from inside the second one, by processes whose random
    states have drifted apart.
    """

    def start(name, **more):
        options = {"num_train_epochs": 2, "train_sampling_strategy": "group_by_length", "object_order": "random"}
        trainer = build(checkpoint, records, folder / name, processes, 2, **options, **more)
        torch.manual_seed(trainer.accelerator.process_index)
        served, collate = [], trainer.data_collator
        trainer.data_collator = lambda rows: served.extend(row["index"] for row in rows) or collate(rows)
        trainer.data_collator.epoch, trainer.data_collator.seed = collate.epoch, collate.seed
        return trainer, served

    whole, served = start("whole", save_strategy="steps", save_steps=1)
    whole.train()
    whole.accelerator.wait_for_everyone()
    again, _ = start("again")
    again.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    return {
        "served": served,
        "expected": logged(whole, 4),
        "actual": logged(again, 4),
        "weights": parameters_of(whole.model),
        "resumed_weights": parameters_of(again.model),
    }


STAGE1 = {
    "stage1": epoch(),
    # The last step has one micro-batch
    "stage1_incomplete": epoch(number=6, batch_size=2),
    "stage1_frozen": epoch(freeze=["vision_tower", "projector"], gradient_checkpointing=True),
    "stage1_adapters": epoch(adapters=True, gradient_checkpointing=True, learning_rate=1.0),
    # The last process has no slot at all
    "stage1_nothing": epoch(number=4, batch_size=4, without_objects=slice(2, 4)),
    "stage1_plain": plain,
    "stage1_broken_loss": broken_loss,
    "stage1_resumed": resumed,
    "stage1_fusion": resumed_fusion,
}

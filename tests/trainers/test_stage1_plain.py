# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""With all coordinate weights at 0, Stage-1 is TRL's supervised fine-tuning: every number is the same, bit for bit."""

import pytest
import torch
from datasets import Dataset
from toys import PLAIN_SFT, PLAIN_SGD, QUIET, load_model, logged, make_stage1_trainer, parameters_of
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

from coordexp_trl.images import load_image
from coordexp_trl.sequences import ground_truth


@pytest.fixture
def twins(checkpoint, records, tmp_path):
    """Makes a Stage-1 trainer and TRL's own, fed with the same text and pictures through TRL's own collator."""

    def make(protocol="tags", **options):
        ours = make_stage1_trainer(
            checkpoint, records, tmp_path / "ours", protocol=protocol, **(PLAIN_SGD | PLAIN_SFT | options)
        )
        end = ours.processing_class.tokenizer.eos_token
        rows = [
            {
                "prompt": ours.prompt_builder.text,
                "completion": ours.protocol.serialize(ground_truth(record, ours.grid)) + end,
                "images": [load_image(record)],
            }
            for record in records
        ]
        options = {"max_length": None, "train_sampling_strategy": "sequential"} | QUIET | PLAIN_SGD | options
        theirs = SFTTrainer(
            load_model(checkpoint),
            SFTConfig(output_dir=str(tmp_path / "theirs"), **options),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoProcessor.from_pretrained(checkpoint),
        )
        return ours, theirs

    return make


def gradients(trainer, batches, num_items_in_batch):
    """Loss of each batch, and the gradients they add up to."""
    trainer.model.train().zero_grad()
    losses = []
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=num_items_in_batch)
        loss.backward()
        losses.append(loss.detach())
    return losses, {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def assert_equal(first, second):
    assert first.keys() == second.keys() and first
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("protocol", ["tags", "json"])
@pytest.mark.parametrize("num_items_in_batch", [None, torch.tensor(77)])
def test_batches_losses_and_gradients_are_those_of_trl(twins, protocol, num_items_in_batch):
    ours, theirs = twins(protocol, per_device_train_batch_size=3)
    batches, expected = (list(trainer.get_train_dataloader()) for trainer in (ours, theirs))
    assert len(batches) == len(expected) == 3
    for batch, wanted in zip(batches, expected, strict=True):
        assert_equal({name: batch[name] for name in wanted}, dict(wanted))
        assert set(batch) - set(wanted) == {"supervision", "counts"}
        assert (batch["labels"] == ours.end_token_ids[0]).sum() == len(batch["labels"])
    losses, grads = gradients(ours, batches, num_items_in_batch)
    wanted_losses, wanted_grads = gradients(theirs, expected, num_items_in_batch)
    assert losses == wanted_losses and all(0 < loss < torch.inf for loss in losses)
    assert_equal(grads, wanted_grads)


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"per_device_train_batch_size": 4, "max_steps": 2},
        # The last group of the epoch is not full: one micro-batch of two records
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_steps": 3},
        {"per_device_train_batch_size": 4, "max_steps": 2, "loss_type": "dft", "gradient_checkpointing": True},
        {"per_device_train_batch_size": 4, "max_steps": 2, "label_smoothing_factor": 0.1, "optim": "adamw_torch"},
    ],
    ids=["plain", "accumulation", "another loss", "label smoothing"],
)
def test_training_gives_the_weights_and_the_log_of_trl(twins, options):
    ours, theirs = twins(**options)
    before = parameters_of(ours.model)
    for trainer in (ours, theirs):
        trainer.train()
    after = parameters_of(ours.model)
    assert_equal(after, parameters_of(theirs.model))
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert len(logged(ours)) == options["max_steps"] and logged(ours) == logged(theirs)

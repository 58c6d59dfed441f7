# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A resumed Stage-1 run is the run that was never interrupted, also in the middle of an epoch."""

import pytest
import torch
from peft import LoraConfig
from toys import PLAIN_SFT, logged, make_stage1_trainer, parameters_of

# 8 pictures: an epoch is 4 optimizer steps of 2 pictures each
RUN = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "object_order": "random",
    "train_sampling_strategy": "group_by_length",
}
LORA = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.2)


def log_of(trainer, first_step):
    """The log from a step on; TRL counts tokens from the beginning of a process."""
    entries = logged(trainer, first_step)
    return [{name: value for name, value in entry.items() if name != "num_tokens"} for entry in entries]


@pytest.mark.parametrize(
    ("options", "trainer_options", "steps"),
    [
        ({}, {}, (3, 4, 5)),  # inside the first epoch, between the two, inside the second
        ({"train_sampling_strategy": "random", "dataloader_num_workers": 1}, {}, (5,)),
        ({"train_sampling_strategy": "batch_rebalance"}, {}, (5,)),
        ({"gradient_checkpointing": True, **PLAIN_SFT}, {"peft_config": LORA}, (6,)),
        # Evaluation in between draws no random number
        ({"eval_strategy": "steps", "eval_steps": 2, "max_completion_length": 4}, {"eval_dataset": True}, (3,)),
    ],
    ids=["default", "random", "rebalanced", "adapters", "evaluation"],
)
def test_a_resumed_run_continues_exactly(checkpoint, records, tmp_path, options, trainer_options, steps):
    if "eval_dataset" in trainer_options:
        trainer_options = {"eval_dataset": records[:2]}
    make = {"trainer_options": trainer_options, **RUN, **options}
    whole = make_stage1_trainer(checkpoint, records, tmp_path / "whole", **make, save_strategy="steps", save_steps=1)
    whole.train()
    expected = parameters_of(whole.model)
    for step in steps:
        resumed = make_stage1_trainer(checkpoint, records, tmp_path / "resumed", **make)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert [entry["step"] for entry in logged(resumed, step + 1)] == list(range(step + 1, 9))
        assert log_of(resumed, step + 1) == log_of(whole, step + 1)
        actual = parameters_of(resumed.model)
        assert all(torch.equal(actual[name], expected[name]) for name in expected), step

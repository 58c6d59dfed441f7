# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A resumed Stage-2 run logs the very numbers of the run that was never interrupted."""

import json
import logging
import shutil

import pytest
import torch
from peft import LoraConfig
from toys import NoisyEngine, logged, make_stage2_trainer, parameters_of

# 8 pictures: an epoch is 4 optimizer steps of 2 pictures each
RUN = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "shuffle_dataset": True,
    "save_strategy": "steps",
    "save_steps": 1,
}


def start(checkpoint, records, folder, noisy=True, **options):
    trainer = make_stage2_trainer(checkpoint, records, folder, scripted=False, **(RUN | options))
    if noisy:
        NoisyEngine(trainer, records)
    return trainer


def assert_same_run(resumed, whole, step):
    actual, expected = logged(resumed, step + 1), logged(whole, step + 1)
    assert [entry["step"] for entry in actual] == list(range(step + 1, 9))
    assert actual == expected
    after, wanted = parameters_of(resumed.model), parameters_of(whole.model)
    assert all(torch.equal(after[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def whole_run(checkpoint, records, tmp_path_factory):
    """An uninterrupted run with a checkpoint after every step, two steps to a generation, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = start(checkpoint, records, folder, steps_per_generation=4)
    trainer.train()
    entries = logged(trainer)
    assert all(entry["loss/bbox_l1"] > 0 for entry in entries)
    assert [entry["step"] for entry in entries if "rollout/f1" in entry] == [1, 3, 5, 7]
    return trainer, folder


@pytest.mark.parametrize(
    ("step", "inside"),
    [
        (1, True),  # inside the first generation
        (2, False),  # between two generations
        (4, False),  # at the end of the first epoch
        (5, True),  # inside a generation of the second epoch, in another order
        (6, False),
        (7, True),
    ],
)
def test_a_resumed_run_continues_exactly(checkpoint, records, tmp_path, whole_run, caplog, step, inside):
    whole, folder = whole_run
    saved = folder / f"checkpoint-{step}"
    assert (saved / "rollouts_0.json").is_file() == inside
    resumed = start(checkpoint, records, tmp_path, steps_per_generation=4, save_strategy="no")
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(saved))
    assert "buffered rollouts" not in caplog.text
    assert len(resumed.engine.calls) == (8 - step) // 2  # the buffered generation is not repeated
    assert_same_run(resumed, whole, step)


@pytest.mark.parametrize(
    ("options", "trainer_options", "steps"),
    [
        # Sampled by the model itself; one generation a step
        ({"temperature": 1.0, "max_completion_length": 8}, {}, (3, 5)),
        # Sampled by the model itself: four steps a generation, two rollouts an image; step 7 is in the second epoch
        (
            {"temperature": 1.0, "max_completion_length": 8, "steps_per_generation": 8, "num_generations": 2},
            {},
            (1, 4, 7),
        ),
        # A frozen tower: shared features are computed anew
        ({"steps_per_generation": 4, "freeze": ["vision_tower", "projector"]}, {}, (3,)),
        # Adapters
        (
            {"steps_per_generation": 4, "gradient_checkpointing": True},
            {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)},
            (5,),
        ),
    ],
)
def test_other_runs_continue_exactly_too(checkpoint, records, tmp_path, options, trainer_options, steps):
    noisy = "temperature" not in options
    whole = start(checkpoint, records, tmp_path, noisy, trainer_options=trainer_options, **options)
    whole.train()
    for step in steps:
        resumed = start(
            checkpoint,
            records,
            tmp_path / "resumed",
            noisy,
            trainer_options=trainer_options,
            **(options | {"save_strategy": "no"}),
        )
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_same_run(resumed, whole, step)


def copy_of(folder, step, target):
    return shutil.copytree(folder / f"checkpoint-{step}", target / f"checkpoint-{step}")


def resume(checkpoint, records, saved, folder, caplog, **options):
    resumed = start(checkpoint, records, folder, **({"steps_per_generation": 4, "save_strategy": "no"} | options))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 8
    return resumed


def test_missing_rollouts_are_reported_and_generated_anew(checkpoint, records, tmp_path, whole_run, caplog):
    saved = copy_of(whole_run[1], 5, tmp_path)
    (saved / "rollouts_0.json").unlink()
    resumed = resume(checkpoint, records, saved, tmp_path / "out", caplog)
    assert "buffered rollouts are missing" in caplog.text
    assert [number for number, _ in resumed.engine.calls] == [4, 4]
    assert "rollout/f1" in logged(resumed)[0]


def test_rollouts_of_another_data_order_are_reported_and_dropped(checkpoint, records, tmp_path, whole_run, caplog):
    saved = copy_of(whole_run[1], 5, tmp_path)
    resumed = resume(checkpoint, records, saved, tmp_path / "out", caplog, data_seed=7)
    assert "another data order" in caplog.text
    assert len(resumed.engine.calls) == 2


def test_rollouts_left_by_another_run_between_generations_are_ignored(
    checkpoint, records, tmp_path, whole_run, caplog
):
    saved = copy_of(whole_run[1], 6, tmp_path)
    shutil.copy(whole_run[1] / "checkpoint-7" / "rollouts_0.json", saved)
    resumed = resume(checkpoint, records, saved, tmp_path / "out", caplog)
    assert_same_run(resumed, whole_run[0], 6)


def test_another_number_of_steps_per_generation_can_be_resumed(checkpoint, records, tmp_path, whole_run, caplog):
    for step, calls in ((5, 3), (6, 2)):
        resumed = resume(
            checkpoint,
            records,
            whole_run[1] / f"checkpoint-{step}",
            tmp_path / str(step),
            caplog,
            steps_per_generation=2,
        )
        assert len(resumed.engine.calls) == calls


def test_the_buffer_names_its_pictures_and_rollouts(whole_run):
    saved = json.loads((whole_run[1] / "checkpoint-5" / "rollouts_0.json").read_text(encoding="utf-8"))
    assert len(saved["indices"]) == len(set(saved["indices"])) == 4
    assert all(reason == "stop" and ids for ids, reason in saved["rollouts"])

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollouts in a Stage-2 run: broken models, several generations an image, schedules, and what is logged."""

import math

import pandas as pd
import pytest
import torch
from toys import PLAIN_SGD, ScriptedEngine, logged, make_stage2_trainer, one_step, parameters_of, spy, writer
from transformers import TrainerCallback

from coordexp_trl.generation import Rollout
from coordexp_trl.protocols.parsed import DROP_REASONS
from coordexp_trl.trainers import stage2_trainer

# Non-finite numbers


def test_a_weight_that_is_not_finite_stops_the_run_before_the_optimizer_step(checkpoint, records, tmp_path):
    trainer = make_stage2_trainer(
        checkpoint, records, tmp_path, per_device_train_batch_size=4, max_steps=3, **PLAIN_SGD
    )
    with torch.no_grad():
        trainer.model.model.language_model.norm.weight[0] = math.nan
    before = parameters_of(trainer.model)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1 .*'loss/text': nan.*learning_rate"):
        trainer.train()
    for name, parameter in parameters_of(trainer.model).items():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_term_is_named_with_its_step(checkpoint, records, tmp_path, monkeypatch, value):
    trainer = make_stage2_trainer(
        checkpoint,
        records,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=3,
        **PLAIN_SGD,
    )
    kept, terms = {}, stage2_trainer.loss_terms

    def broken(*args):
        sums, diagnostics = terms(*args)
        if trainer._step == 2:  # the first micro-batch of the second step
            kept.update(parameters_of(trainer.model))
            sums["bbox_iou"] = sums["bbox_iou"] * value
        return sums, diagnostics

    monkeypatch.setattr(stage2_trainer, "loss_terms", broken)
    with pytest.raises(FloatingPointError, match=r"step 2 \(\{'loss/bbox_iou': (nan|inf)\}\)"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert all(torch.equal(kept[name], parameter) for name, parameter in parameters_of(trainer.model).items())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_of_a_broken_model_are_counted_not_raised(checkpoint, records, tmp_path, temperature):
    trainer = make_stage2_trainer(
        checkpoint,
        records[:2],
        tmp_path,
        scripted=False,
        trainer_options={"eval_dataset": records[:2]},
        max_completion_length=8,
        temperature=temperature,
    )
    with torch.no_grad():
        trainer.model.model.language_model.norm.weight.fill_(math.nan)
    assert trainer.evaluate()["eval_f1"] == 0
    with pytest.raises(FloatingPointError):  # generated, parsed and matched; refused at the loss
        trainer.train()


# Generations


@pytest.mark.parametrize(
    ("mode", "sequences_per_rollout", "different"),
    # In two_sequence both rollouts of an image with one object have the same re-ordered ground truth
    [("two_sequence", 2, 14), ("appended", 1, 8), ("expert", 1, 8)],
)
def test_several_generations_an_image(
    checkpoint, records, tmp_path, monkeypatch, mode, sequences_per_rollout, different
):
    trainer = make_stage2_trainer(
        checkpoint,
        records[:4],
        tmp_path,
        mode=mode,
        num_generations=2,
        temperature=1.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
    )
    one, other = writer(trainer), writer(trainer, change=lambda objects: objects)
    ScriptedEngine(trainer, records[:4], lambda record: [one(record), other(record)])
    calls = spy(monkeypatch, trainer)
    trainer.train()
    assert [(number, sampling.num_generations) for number, sampling in trainer.engine.calls] == [(4, 2)]
    batches = [batch for _, batch, _ in calls]
    assert [batch.image_of_sequence for batch in batches] == [
        [image for image in range(2) for _ in range(2 * sequences_per_rollout)]
    ] * 2
    ids = [tuple(sequence.ids) for batch in batches for sequence in batch.sequences]
    assert (len(ids), len(set(ids))) == (8 * sequences_per_rollout, different)
    (entry,) = logged(trainer)
    # 3 or 4 objects imperfect and 1 or 2 perfect, over 2, 2, 1 and 1 annotated
    assert entry["rollout/objects_predicted"] == pytest.approx((4 + 2 + 4 + 2 + 3 + 1 + 3 + 1) / 8)
    assert entry["rollout/objects_ground_truth"] == pytest.approx(1.5)


def test_sampled_generations_differ(checkpoint, records, tmp_path, monkeypatch):
    trainer = make_stage2_trainer(
        checkpoint,
        records[:2],
        tmp_path,
        scripted=False,
        num_generations=2,
        temperature=1.0,
        max_completion_length=8,
        per_device_train_batch_size=2,
        max_steps=1,
    )
    calls = spy(monkeypatch, trainer, "_parse")
    trainer.train()
    ((rollouts,),) = calls
    assert len(rollouts) == 4
    assert len({tuple(rollout.completion_ids) for rollout in rollouts}) == 4


@pytest.mark.parametrize(
    ("finish_reason", "expected"),
    [
        # The model ended inside an object: malformed
        ("stop", {"rollout/dropped/incomplete": 1, "rollout/truncation_rate": 0, "rollout/parse_rate": 0}),
        # The length limit ended it: cut, not malformed
        ("length", {"rollout/truncation_rate": 1, "rollout/parse_rate": 0}),
    ],
)
def test_an_end_inside_an_object_is_told_from_a_cut(checkpoint, records, tmp_path, finish_reason, expected):
    trainer = make_stage2_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=8, max_steps=1)
    write = writer(trainer)
    ScriptedEngine(trainer, records, lambda record: write(record)[:-3], finish_reason)
    trainer.train()
    (entry,) = logged(trainer)
    assert {name: entry[name] for name in expected} == expected
    assert ("rollout/dropped/incomplete" in entry) == (finish_reason == "stop")


def test_a_batch_that_does_not_fit_is_halved(checkpoint, records, tmp_path, monkeypatch):
    trainer = make_stage2_trainer(
        checkpoint,
        records,
        tmp_path,
        per_device_train_batch_size=4,
        steps_per_generation=2,
        max_steps=2,
        auto_find_batch_size=True,
    )
    forward, sizes = trainer._forward, []

    def limited(model, batch, config):
        sizes.append(len(batch.prompts))
        if sizes[-1] > 2:
            raise RuntimeError("CUDA out of memory.")
        return forward(model, batch, config)

    monkeypatch.setattr(trainer, "_forward", limited)
    trainer.train()
    assert sizes[0] == 4 and sizes[-2:] == [2, 2]
    assert trainer.engine.calls[-1][0] == 4
    # The log describes the batches that were trained on, not those that were tried: 2, 2, 1 and 1 objects
    assert logged(trainer)[0]["rollout/objects_ground_truth"] == 1.5


def test_an_engine_that_saw_another_prompt_is_refused(checkpoint, records, tmp_path):
    trainer = make_stage2_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=2, max_steps=1)

    class Doubled(ScriptedEngine):
        def generate(self, *args):
            return [
                Rollout([*item.prompt_ids[:4], item.prompt_ids[3], *item.prompt_ids[4:]], item.completion_ids, "stop")
                for item in super().generate(*args)
            ]

    Doubled(trainer, records, writer(trainer))
    with pytest.raises(ValueError, match=r"shapes\.jsonl:1 differs from the training prompt at token 4.*image_pad"):
        trainer.train()


def test_one_generation_serves_its_steps_and_a_second_run_starts_afresh(checkpoint, records, tmp_path):
    trainer = make_stage2_trainer(
        checkpoint, records, tmp_path, per_device_train_batch_size=2, steps_per_generation=3, max_steps=4
    )
    trainer.train()
    assert [number for number, _ in trainer.engine.calls] == [6, 6]
    entries = logged(trainer)
    # Steps between two generations have no rollouts of their own to describe
    assert [step for step, entry in enumerate(entries) if "rollout/f1" in entry] == [0, 3]
    trainer.train()
    assert [number for number, _ in trainer.engine.calls] == [6, 6, 6, 6]


# Schedules and logs


def test_schedules_follow_the_global_step(checkpoint, records, tmp_path, monkeypatch):
    trainer = make_stage2_trainer(
        checkpoint,
        records,
        tmp_path,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=4,
        coord_temperature=2.0,
        coord_temperature_end=1.0,
        coord_gate_weight=1.0,
        coord_gate_weight_end=0.0,
    )
    calls = spy(monkeypatch, trainer)
    trainer.train()
    configs = [config for _, _, config in calls]
    assert [config.temperature for config in configs] == [2.0, 2.0, 1.75, 1.75, 1.5, 1.5, 1.25, 1.25]
    assert [config.weights["coord_gate"] for config in configs] == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


def test_the_weight_of_the_end_token_reaches_the_loss(checkpoint, records, tmp_path):
    losses = []
    for eos_weight in (1.0, 2.0, 3.0):
        _, _, trainer = one_step(checkpoint, records, tmp_path, per_device_train_batch_size=8, eos_weight=eos_weight)
        losses.append(logged(trainer)[0]["loss/text"])
    assert losses[1] - losses[0] > 0.01
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_the_log_holds_the_documented_metrics(checkpoint, records, tmp_path):
    _, _, trainer = one_step(checkpoint, records, tmp_path, per_device_train_batch_size=8)
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    rollout = "precision recall f1 mean_iou objects_predicted objects_ground_truth duplicate_rate parse_rate"
    rollout += " truncation_rate mean_length max_length invalid_boxes"
    for name in rollout.split():
        assert f"rollout/{name}" in entry
    for name in ("text", "coord_ce", "coord_soft_ce", "coord_gate", "bbox_l1", "bbox_iou"):
        assert entry[f"loss/{name}"] > 0
    for name in ("generate", "parse", "match", "forward_backward"):
        assert entry[f"time/{name}"] > 0
    assert 0 < entry["coord_mass"] < 1 and 0 < entry["coord_bin_error"] < 999
    drops = {name.removeprefix("rollout/dropped/") for name in entry if name.startswith("rollout/dropped/")}
    assert drops <= DROP_REASONS.keys()


def test_completions_are_printed_and_written(checkpoint, records, tmp_path, capsys):
    _, _, trainer = one_step(
        checkpoint,
        records,
        tmp_path,
        per_device_train_batch_size=4,
        log_completions=True,
        num_completions_to_print=1,
        max_steps=2,
    )
    printed = capsys.readouterr().out
    assert "Step 1" in printed and "Step 2" in printed and "ground_truth" in printed
    table = pd.read_parquet(tmp_path / "completions" / "completions_00002.parquet")
    assert list(table["image"]) == [record.images[0] for record in records[4:]]
    assert set(table["step"]) == {2}
    expected = trainer.engine.answers.values()
    tokenizer = trainer.processing_class.tokenizer
    assert list(table["completion"]) == [tokenizer.decode(ids) for ids in expected][4:]
    assert all("<|coord_" in text for text in table["ground_truth"])
    # 2 objects: 2 of 4 right; 3 objects: 2 of 4 right, 1 missed; 1 object: 1 of 3 right
    assert list(table["f1"]) == pytest.approx([4 / 6, 4 / 7, 2 / 4, 4 / 7])


def test_evaluation_in_between_does_not_disturb_training(checkpoint, records, tmp_path):
    logs = [
        logged(
            one_step(
                checkpoint,
                records,
                tmp_path,
                scripted=False,
                trainer_options={"eval_dataset": records[:3]},
                per_device_train_batch_size=4,
                steps_per_generation=2,
                temperature=1.0,
                max_completion_length=6,
                max_steps=4,
                eval_strategy=strategy,
                eval_steps=1,
            )[2]
        )
        for strategy in ("no", "steps")
    ]
    assert logs[0] == logs[1]


def test_callbacks_and_optimizers_are_passed_on(checkpoint, records, tmp_path):
    class Steps(TrainerCallback):
        seen = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.seen += 1

    callback = Steps()
    trainer = make_stage2_trainer(
        checkpoint,
        records,
        tmp_path,
        trainer_options={"callbacks": [callback]},
        per_device_train_batch_size=8,
        max_steps=2,
    )
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    before = parameters_of(trainer.model)
    trainer.train()
    assert callback.seen == 2
    assert all(torch.equal(before[name], value) for name, value in parameters_of(trainer.model).items())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_record_served_twice_is_rolled_out_once_if_greedy(checkpoint, records, tmp_path, temperature):
    options = {"per_device_train_batch_size": 2, "steps_per_generation": 3, "max_steps": 3, **PLAIN_SGD}
    trainer = make_stage2_trainer(checkpoint, records[:2], tmp_path / "a", temperature=temperature, **options)
    trainer.train()
    assert [prompts for prompts, _ in trainer.engine.calls] == [2 if temperature == 0 else 6]
    # the micro-batches do not know the difference
    plain = make_stage2_trainer(checkpoint, records[:2], tmp_path / "b", temperature=1.0, **options)
    plain.train()
    losses = [[entry["loss"] for entry in logged(run)] for run in (trainer, plain)]
    assert losses[0] == losses[1] and len(losses[0]) == 3

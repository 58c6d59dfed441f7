# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""One optimizer step of Stage-2 on one process: normalisation, loss terms, what moves, precision, what is logged."""

import dataclasses
import math
import re

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from stage2_toys import (
    ALL_WEIGHTS,
    PLAIN_SGD,
    ScriptedEngine,
    logged,
    make_trainer,
    only,
    parameters_of,
    relative_difference,
    writer,
)
from transformers import TrainerCallback

from coordexp_trl.generation import Rollout
from coordexp_trl.losses.terms import UNIT_OF_TERM
from coordexp_trl.models import MODULE_PATTERNS, backbone
from coordexp_trl.protocols.parsed import DROP_REASONS
from coordexp_trl.tiny import create_tiny_checkpoint
from coordexp_trl.trainers import stage2_trainer

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
MODES = ("two_sequence", "appended", "expert")


@pytest.fixture(scope="module")
def untied_checkpoint(tmp_path_factory):
    return create_tiny_checkpoint(
        tmp_path_factory.mktemp("untied") / "checkpoint",
        hidden_size=64,
        num_layers=2,
        vision_depth=2,
        tie_word_embeddings=False,
    )


def one_step(*args, **options):
    """Parameters before and after `max_steps` (1) steps of plain SGD, and the trainer."""
    trainer = make_trainer(*args, **({"max_steps": 1} | PLAIN_SGD | options))
    before = parameters_of(trainer.model)
    trainer.train()
    return before, parameters_of(trainer.model), trainer


def spy(monkeypatch, trainer, name="_forward"):
    """Records the positional arguments of every call of a trainer method."""
    calls, method = [], getattr(trainer, name)

    def recorded(*args, **kwargs):
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(trainer, name, recorded)
    return calls


# Normalisation


@pytest.mark.parametrize("mode", MODES)
def test_the_split_into_micro_batches_changes_no_gradient_and_no_loss(checkpoint, records, tmp_path, mode):
    runs = [
        one_step(
            checkpoint,
            records,
            tmp_path,
            mode=mode,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        for size, steps in ((1, 8), (8, 1), (2, 4))
    ]
    start, expected, reference = runs[0]
    for _, after, trainer in runs[1:]:
        assert relative_difference(after, expected, start) < 1e-5
        (actual,), (wanted,) = logged(trainer), logged(reference)
        assert actual.keys() == wanted.keys()
        for name in wanted:
            assert actual[name] == pytest.approx(wanted[name], rel=1e-5), name


def test_the_logged_loss_is_the_weighted_sum_of_the_logged_terms(checkpoint, records, tmp_path):
    weights = {name: 0.5 + 0.1 * number for number, name in enumerate(ALL_WEIGHTS)}
    _, _, trainer = one_step(
        checkpoint, records, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **weights
    )
    (entry,) = logged(trainer)
    total = sum(weights[f"{name}_weight"] * entry[f"loss/{name}"] for name in UNIT_OF_TERM)
    assert entry["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_annotations_changes_nothing(checkpoint, records, tmp_path, mode):
    shuffled = [dataclasses.replace(record, objects=record.objects[::-1]) for record in records]
    logs = [
        logged(one_step(checkpoint, these, tmp_path, mode=mode, per_device_train_batch_size=4, max_steps=2)[2])
        for these in (records, shuffled)
    ]
    assert logs[0] == logs[1]


def test_a_rollout_that_cannot_be_parsed_leaves_supervision_on_the_ground_truth(checkpoint, records, tmp_path):
    trainer = make_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=8, max_steps=1)
    ScriptedEngine(trainer, records, lambda record: [5, 6, 7] * 4)
    trainer.train()
    (entry,) = logged(trainer)
    assert entry["rollout/f1"] == entry["rollout/parse_rate"] == entry["loss/bbox_l1"] == 0
    assert entry["rollout/dropped/stray"] == 1
    assert entry["loss/text"] > 0 and entry["loss/coord_ce"] > 0


# What moves


@pytest.mark.parametrize("term", ALL_WEIGHTS)
def test_each_loss_term_alone_moves_the_parameters_it_should(untied_checkpoint, records, tmp_path, term):
    before, after, trainer = one_step(
        untied_checkpoint, records, tmp_path, per_device_train_batch_size=8, **(only(term) | {"learning_rate": 1.0})
    )
    (entry,) = logged(trainer)
    name = term.removesuffix("_weight")
    assert math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) and entry["grad_norm"] > 0
    assert entry["loss"] == pytest.approx(entry[f"loss/{name}"], rel=1e-6)
    assert {key for key in entry if key.startswith("loss/")} == {f"loss/{name}"}
    for part in ("model.language_model.layers.0.self_attn.q_proj.weight", "model.visual.blocks.0.attn.qkv.weight"):
        assert not torch.equal(before[part], after[part])
    moved = (before["lm_head.weight"] != after["lm_head.weight"]).any(dim=1)
    is_coordinate = torch.zeros_like(moved).index_fill_(0, trainer.vocabulary.ids, True)
    assert moved[is_coordinate].any()
    # Terms on the distribution over the coordinate tokens know nothing of the other rows of the head
    assert moved[~is_coordinate].any() == (name in ("text", "coord_gate"))


@pytest.mark.parametrize(
    ("freeze", "pattern"),
    [
        (["vision_tower"], MODULE_PATTERNS["vision_tower"]),
        (["projector"], MODULE_PATTERNS["projector"]),
        (["language_model"], MODULE_PATTERNS["language_model"]),
        (["vision_tower", "projector"], r"\.visual\."),
        ([r"layers\.0\.mlp"], r"layers\.0\.mlp"),
    ],
)
def test_frozen_parts_do_not_move_and_all_others_do(checkpoint, records, tmp_path, freeze, pattern):
    before, after, trainer = one_step(
        checkpoint, records, tmp_path, per_device_train_batch_size=8, freeze=freeze, gradient_checkpointing=True
    )
    unmoved = {name for name in before if torch.equal(before[name], after[name])}
    assert unmoved == {name for name in before if re.search(pattern, name)} != set()
    assert trainer.share_features == (freeze == ["vision_tower", "projector"])


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_adapters_alone_move(checkpoint, records, tmp_path, gradient_checkpointing):
    before, after, trainer = one_step(
        checkpoint,
        records,
        tmp_path,
        trainer_options={"peft_config": LoraConfig(**LORA)},
        per_device_train_batch_size=8,
        gradient_checkpointing=gradient_checkpointing,
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "lora_" in name} != set()
    assert math.isfinite(logged(trainer)[0]["loss"])


def test_gradient_checkpointing_changes_no_number(checkpoint, records, tmp_path):
    start, plain, _ = one_step(checkpoint, records, tmp_path, per_device_train_batch_size=8)
    _, recomputed, _ = one_step(
        checkpoint, records, tmp_path, per_device_train_batch_size=8, gradient_checkpointing=True
    )
    assert relative_difference(recomputed, plain, start) < 1e-6


def test_the_loss_falls_on_two_pictures_and_the_rollouts_learn_the_format(checkpoint, records, tmp_path):
    trainer = make_trainer(
        checkpoint,
        records[2:4],
        tmp_path,
        scripted=False,
        per_device_train_batch_size=2,
        steps_per_generation=8,
        max_steps=48,
        max_completion_length=32,
        learning_rate=3e-3,
        logging_steps=8,
    )
    trainer.train()
    losses = [entry["loss"] for entry in logged(trainer)]
    assert losses[-1] < 0.5 * losses[0]
    assert logged(trainer)[-1]["rollout/objects_predicted"] > 0


# The vision tower


class CountImages:
    """Counts the images that go through the vision tower."""

    def __init__(self, trainer):
        self.count = 0
        backbone(trainer.model).visual.register_forward_pre_hook(self.add, with_kwargs=True)

    def add(self, module, args, kwargs):
        self.count += len(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1])


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_shared_features_of_a_frozen_tower_change_no_number(checkpoint, records, tmp_path, gradient_checkpointing):
    runs = []
    for share in (True, False):
        trainer = make_trainer(
            checkpoint,
            records,
            tmp_path,
            freeze=["vision_tower", "projector"],
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=2,
            gradient_checkpointing=gradient_checkpointing,
            **PLAIN_SGD,
        )
        assert trainer.share_features
        trainer.share_features = share
        images = CountImages(trainer)
        start = parameters_of(trainer.model)
        trainer.train()
        assert trainer.engine.features_given == [share, share]
        assert images.count == 8  # the scripted engine uses none
        runs.append((parameters_of(trainer.model), logged(trainer)))
    assert relative_difference(runs[0][0], runs[1][0], start) < 1e-5
    for shared, recomputed in zip(runs[0][1], runs[1][1], strict=True):
        assert shared == pytest.approx(recomputed, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Frozen: once per image and generation, whatever number of rollouts, forwards and steps it serves
        ({"freeze": ["vision_tower", "projector"]}, 4),
        ({"freeze": ["vision_tower", "projector"], "num_generations": 2, "temperature": 1.0}, 4),
        # A projector that learns needs the tower in every forward: the rollout and one forward per image
        ({"freeze": ["vision_tower"]}, 8),
        ({}, 8),
    ],
)
def test_how_often_an_image_goes_through_the_vision_tower(checkpoint, records, tmp_path, options, expected):
    trainer = make_trainer(
        checkpoint,
        records[:4],
        tmp_path,
        scripted=False,
        per_device_train_batch_size=2,
        steps_per_generation=2,
        max_steps=2,
        max_completion_length=4,
        **options,
    )
    images = CountImages(trainer)
    trainer.train()
    assert images.count == expected


# Precision


@pytest.mark.parametrize("peft", [False, True])
def test_bf16_reaches_every_forward_and_keeps_the_loss(checkpoint, records, tmp_path, monkeypatch, peft):
    losses, terms = {}, stage2_trainer.loss_terms
    for bf16 in (False, True):
        trainer = make_trainer(
            checkpoint,
            records,
            tmp_path,
            trainer_options={"peft_config": LoraConfig(**LORA) if peft else None},
            bf16=bf16,
            per_device_train_batch_size=8,
            max_steps=1,
        )
        seen, autocast = set(), []
        linear = backbone(trainer.model).language_model.layers[0].mlp.down_proj
        linear.register_forward_hook(lambda module, args, output, seen=seen: seen.add(output.dtype))

        def recorded(hidden, *args, autocast=autocast):
            autocast.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return terms(hidden, *args)

        monkeypatch.setattr(stage2_trainer, "loss_terms", recorded)
        trainer.train()
        losses[bf16] = logged(trainer)[0]["loss"]
        dtype = torch.bfloat16 if bf16 else torch.float32
        assert seen == {dtype}
        assert autocast == [(bf16, torch.bfloat16)]  # the head's products are taken in the autocast dtype
        seen.clear()
        trainer = make_trainer(
            trainer.model, records[:1], tmp_path, scripted=False, bf16=bf16, max_completion_length=2
        )
        trainer.detect(records[:1])
        assert seen == {dtype}  # rollouts decode in the precision of training
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


# Non-finite numbers


def test_a_weight_that_is_not_finite_stops_the_run_before_the_optimizer_step(checkpoint, records, tmp_path):
    trainer = make_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=4, max_steps=3, **PLAIN_SGD)
    with torch.no_grad():
        trainer.model.model.language_model.norm.weight[0] = math.nan
    before = parameters_of(trainer.model)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1 .*'text': nan.*learning_rate"):
        trainer.train()
    for name, parameter in parameters_of(trainer.model).items():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_term_is_named_with_its_step(checkpoint, records, tmp_path, monkeypatch, value):
    trainer = make_trainer(
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
    with pytest.raises(FloatingPointError, match=r"step 2 \(\{'bbox_iou': (nan|inf)\}\)"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert all(torch.equal(kept[name], parameter) for name, parameter in parameters_of(trainer.model).items())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_of_a_broken_model_are_counted_not_raised(checkpoint, records, tmp_path, temperature):
    trainer = make_trainer(
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
    trainer = make_trainer(
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
    trainer = make_trainer(
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


def test_an_engine_that_saw_another_prompt_is_refused(checkpoint, records, tmp_path):
    trainer = make_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=2, max_steps=1)

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
    trainer = make_trainer(
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
    trainer = make_trainer(
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


@pytest.mark.parametrize("mode", MODES)
def test_the_weight_of_the_end_token_reaches_the_loss(checkpoint, records, tmp_path, mode):
    losses = [
        logged(
            one_step(checkpoint, records, tmp_path, mode=mode, per_device_train_batch_size=8, eos_weight=eos_weight)[2]
        )[0]["loss/text"]
        for eos_weight in (1.0, 2.0, 3.0)
    ]
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
    trainer = make_trainer(
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

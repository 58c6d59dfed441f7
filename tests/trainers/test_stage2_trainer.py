# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""One optimizer step of Stage-2 on one process: normalisation, loss terms, what moves, precision, what is logged."""

import dataclasses
import math
import re

import pytest
import torch
from peft import LoraConfig
from toys import (
    ALL_WEIGHTS,
    PLAIN_SGD,
    ScriptedEngine,
    logged,
    make_stage2_trainer,
    one_step,
    only,
    parameters_of,
    relative_difference,
)

from coordexp_trl.losses.terms import TERMS
from coordexp_trl.models import MODULE_PATTERNS, backbone
from coordexp_trl.trainers import stage2_trainer

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
MODES = ("two_sequence", "appended", "expert")


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
    total = sum(weights[f"{name}_weight"] * entry[f"loss/{name}"] for name in TERMS)
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
    trainer = make_stage2_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=8, max_steps=1)
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
    trainer = make_stage2_trainer(
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
        trainer = make_stage2_trainer(
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
    trainer = make_stage2_trainer(
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
        trainer = make_stage2_trainer(
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
        trainer = make_stage2_trainer(
            trainer.model, records[:1], tmp_path, scripted=False, bf16=bf16, max_completion_length=2
        )
        trainer.detect(records[:1])
        assert seen == {dtype}  # rollouts decode in the precision of training
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


@pytest.mark.vllm
def test_vllm_starts_with_the_first_rollout(checkpoint, records, tmp_path):
    trainer = make_stage2_trainer(checkpoint, records, tmp_path, scripted=False, use_vllm=True)
    assert trainer.engine is None  # so that a dry run starts nothing

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Optimizer steps of Stage-1: losses against full logits, normalisation, what moves, precision, what is logged."""

import dataclasses
import logging
import math
import re

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from toys import (
    COORD_WEIGHTS,
    PLAIN_SFT,
    PLAIN_SGD,
    logged,
    make_stage1_trainer,
    one_step,
    parameters_of,
    relative_difference,
    spy,
)

from coordexp_trl.losses.terms import LossConfig
from coordexp_trl.models import MODULE_PATTERNS, backbone
from coordexp_trl.trainers import stage1_trainer

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
WEIGHTS = {name: 0.5 + 0.1 * number for number, name in enumerate(COORD_WEIGHTS)}
TERMS = ["text", *(name.removesuffix("_weight") for name in COORD_WEIGHTS)]


def dense_terms(trainer, batch) -> dict[str, torch.Tensor]:
    """Mean of every term and diagnostic, from the full logits and the labels."""
    left_out = ("labels", "supervision", "counts", "units")
    logits = trainer.model(**{name: value for name, value in batch.items() if name not in left_out}).logits
    wanted = batch["labels"][:, 1:]
    logits, wanted = logits[:, :-1][wanted != -100], wanted[wanted != -100]
    ids = trainer.vocabulary.ids
    is_slot = torch.isin(wanted, ids)
    bins, scores = torch.searchsorted(ids, wanted[is_slot]), logits[is_slot][:, ids]
    p, k = scores.softmax(-1), torch.arange(len(ids))
    distance = (k - bins[:, None]).abs() / trainer.args.coord_sigma
    q = torch.exp(-0.5 * distance**2) * (distance <= 4)
    q = q / q.sum(-1, keepdim=True)
    return {
        "text": F.cross_entropy(logits[~is_slot], wanted[~is_slot]),
        "coord_ce": F.cross_entropy(scores, bins),
        "coord_soft_ce": F.cross_entropy(scores, q),
        "coord_w1": (p - q).cumsum(-1).abs().sum(-1).mean() / (len(ids) - 1),
        "coord_gate": (logits[is_slot].logsumexp(-1) - scores.logsumexp(-1)).mean(),
        "coord_entropy": -(p * p.log()).sum(-1).mean(),
        "coord_bin_error": ((p * k).sum(-1) - bins).abs().mean(),
        "coord_mass": logits[is_slot].softmax(-1)[:, ids].sum(-1).mean(),
    }


def one_batch(trainer):
    """All records in one batch, with the units of an optimizer step that consists of it."""
    (batch,) = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)[0]
    trainer.model.train()
    return batch


def gradients_of(trainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


# Losses


@pytest.mark.parametrize("protocol", ["tags", "json"])
@pytest.mark.parametrize("sigma", [2.0, 0.7])
def test_loss_gradients_and_log_are_those_of_full_logits(checkpoint, records, tmp_path, protocol, sigma):
    trainer = make_stage1_trainer(
        checkpoint,
        records,
        tmp_path,
        protocol=protocol,
        coord_sigma=sigma,
        per_device_train_batch_size=8,
        max_steps=1,
        **WEIGHTS,
    )
    batch = one_batch(trainer)
    dense = dense_terms(trainer, batch)
    expected = dense["text"] + sum(WEIGHTS[f"{name}_weight"] * dense[name] for name in TERMS[1:])
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    actual, wanted = (gradients_of(trainer, value) for value in (loss, expected))
    nothing = {name: torch.zeros_like(value) for name, value in wanted.items()}
    assert relative_difference(actual, wanted, nothing) < 1e-5

    trainer.train()
    (entry,) = logged(trainer)
    names = {name: f"loss/{name}" for name in TERMS} | {name: name for name in ("coord_bin_error", "coord_mass")}
    assert {names[name]: entry[names[name]] for name in names} == pytest.approx(
        {names[name]: dense[name].item() for name in names}, rel=1e-4
    )
    assert entry["coord_entropy"] == pytest.approx(entry["loss/coord_entropy"])  # reported without its weight, too
    assert entry["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_reaches_the_parameters_it_should(untied_checkpoint, records, tmp_path, monkeypatch, term):
    trainer = make_stage1_trainer(untied_checkpoint, records, tmp_path, per_device_train_batch_size=8)
    monkeypatch.setattr(trainer.args, "loss_config", lambda progress: LossConfig({term: 1.0}))
    grads = gradients_of(trainer, trainer.compute_loss(trainer.model, one_batch(trainer)))
    for part in ("model.language_model.layers.0.self_attn.q_proj.weight", "model.visual.blocks.0.attn.qkv.weight"):
        assert grads[part].abs().max() > 0
    reached = grads["lm_head.weight"].abs().amax(1) > 0
    is_coordinate = torch.zeros_like(reached).index_fill_(0, trainer.vocabulary.ids, True)
    assert reached[is_coordinate].any()
    # Terms on the distribution over the coordinate tokens know nothing of the other rows of the head
    assert reached[~is_coordinate].any() == (term in ("text", "coord_gate"))


def test_options_reach_the_losses(checkpoint, records, tmp_path):
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, coord_sigma=1.5, **WEIGHTS)
    for progress in (0.0, 1.0):
        config = trainer.args.loss_config(progress)
        assert config.sigma == 1.5
        assert config.weights == {"text": 1.0} | {
            name.removesuffix("_weight"): value for name, value in WEIGHTS.items()
        }


def test_pictures_without_objects_teach_the_empty_set(checkpoint, records, tmp_path):
    empty = [dataclasses.replace(record, objects=()) for record in records]
    _, _, trainer = one_step(checkpoint, empty, tmp_path, make=make_stage1_trainer, per_device_train_batch_size=4)
    (entry,) = logged(trainer)
    assert entry["loss"] == pytest.approx(entry["loss/text"])
    assert entry["loss/coord_ce"] == entry["loss/coord_gate"] == entry["coord_bin_error"] == 0
    batch = one_batch(trainer)
    assert [row[row != -100].tolist() for row in batch["labels"]] == [trainer.end_token_ids[:1]] * 4
    assert batch["units"] == {"text": 4, "slots": 1, "boxes": 1}


# Normalisation


@pytest.mark.parametrize("number", [8, 7])  # of seven records the second step has three
def test_the_split_into_micro_batches_changes_no_update_and_no_log(checkpoint, records, tmp_path, monkeypatch, number):
    runs, units = [], []
    for size, steps in ((1, 4), (4, 1), (2, 2)):
        trainer = make_stage1_trainer(
            checkpoint,
            records[:number],
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=1,
            **(PLAIN_SGD | WEIGHTS),
        )
        start, calls = parameters_of(trainer.model), spy(monkeypatch, trainer, "_forward")
        trainer.train()
        runs.append((parameters_of(trainer.model), logged(trainer)))
        units.append({tuple(batch["units"].items()) for _, batch, _ in calls})
        assert len(calls) == math.ceil(number / size)
    (expected, log), *others = runs
    assert len(log) == 2 and units[0] == units[1] == units[2] and len(units[0]) == 2
    for parameters, entries in others:
        assert relative_difference(parameters, expected, start) < 1e-5
        for actual, wanted in zip(entries, map(dict, log), strict=True):
            del actual["epoch"], wanted["epoch"]  # the Trainer counts it in micro-batches
            assert actual == pytest.approx(wanted, rel=1e-5)


def test_the_units_of_a_step_are_those_of_its_own_records(checkpoint, records, tmp_path, monkeypatch):
    trainer = make_stage1_trainer(
        checkpoint,
        records[:7],
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
    )
    calls = spy(monkeypatch, trainer, "_forward")
    trainer.train()
    objects = [len(record.objects) for record in records]
    slots = [batch["units"]["slots"] for _, batch, _ in calls]
    assert slots == [4 * sum(objects[:4])] * 2 + [4 * sum(objects[4:7])] * 2
    lengths = list(trainer.train_dataset["length"])
    assert [entry["num_tokens"] for entry in logged(trainer)] == [sum(lengths[:4]), sum(lengths)]


# What moves


def test_all_parameters_move(checkpoint, records, tmp_path):
    before, after, _ = one_step(checkpoint, records, tmp_path, make=make_stage1_trainer, per_device_train_batch_size=8)
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("freeze", "pattern"),
    [
        (["vision_tower", "projector"], r"\.visual\."),
        (["language_model"], MODULE_PATTERNS["language_model"]),
        ([r"layers\.0\.mlp"], r"layers\.0\.mlp"),
    ],
)
@pytest.mark.parametrize("weights", [{}, PLAIN_SFT], ids=["coordinates", "plain"])
def test_frozen_parts_do_not_move_and_all_others_do(checkpoint, records, tmp_path, freeze, pattern, weights):
    before, after, _ = one_step(
        checkpoint,
        records,
        tmp_path,
        make=make_stage1_trainer,
        per_device_train_batch_size=8,
        freeze=freeze,
        gradient_checkpointing=True,
        **weights,
    )
    unmoved = {name for name in before if torch.equal(before[name], after[name])}
    assert unmoved == {name for name in before if re.search(pattern, name)} != set()


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("weights", [{}, PLAIN_SFT], ids=["coordinates", "plain"])
def test_adapters_alone_move(checkpoint, records, tmp_path, gradient_checkpointing, weights):
    before, after, trainer = one_step(
        checkpoint,
        records,
        tmp_path,
        make=make_stage1_trainer,
        trainer_options={"peft_config": LoraConfig(**LORA), "eval_dataset": records[:2]},
        per_device_train_batch_size=8,
        gradient_checkpointing=gradient_checkpointing,
        max_completion_length=4,
        **weights,
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "lora_" in name} != set()
    assert 0 < logged(trainer)[0]["loss"] < math.inf
    assert trainer.evaluate()["eval_max_length"] == 4


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_adapters_can_train_the_rows_of_the_coordinate_tokens(
    checkpoint, untied_checkpoint, records, tmp_path, caplog, tied
):
    source = checkpoint if tied else untied_checkpoint
    ids = make_stage1_trainer(source, records, tmp_path).vocabulary.ids.tolist()
    rows = {"embed_tokens": ids} if tied else {"embed_tokens": ids, "lm_head": ids}
    with caplog.at_level(logging.WARNING):
        before, after, trainer = one_step(
            source,
            records,
            tmp_path,
            make=make_stage1_trainer,
            trainer_options={"peft_config": LoraConfig(**LORA, trainable_token_indices=rows)},
            per_device_train_batch_size=8,
        )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {re.sub(r".*\.(\w+)\.token_adapter.*", r"\1", name) for name in moved if "lora_" not in name} == rows.keys()
    embedding, head = trainer.model.get_input_embeddings(), trainer.model.get_output_embeddings()
    for module in (embedding, head):
        changed = (module.weight != module.original_module.weight).any(1).nonzero()[:, 0].tolist()
        assert set(changed) <= set(ids)
        # All rows of the head take part in each slot, those of a separate embedding only where they are written
        assert len(changed) > (900 if tied or module is head else 4)
    assert "do not learn" not in caplog.text


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize(
    ("options", "lora", "warned"),
    [
        ({}, None, False),
        ({"freeze": ["vision_tower"]}, None, False),
        ({"freeze": ["language_model"]}, None, True),
        ({}, LORA, True),
        ({}, LORA | {"modules_to_save": ["embed_tokens"]}, False),
    ],
)
def test_coordinate_rows_that_do_not_learn_are_reported(checkpoint, records, tmp_path, caplog, options, lora, warned):
    adapters = {"peft_config": LoraConfig(**lora)} if lora else {}
    with caplog.at_level(logging.WARNING):
        make_stage1_trainer(checkpoint, records, tmp_path, trainer_options=adapters, **options)
    assert ("rows of the coordinate tokens do not learn" in caplog.text) == warned


def test_gradient_checkpointing_changes_no_number(checkpoint, records, tmp_path):
    options = {"make": make_stage1_trainer, "per_device_train_batch_size": 8}
    start, plain, _ = one_step(checkpoint, records, tmp_path, **options)
    _, recomputed, _ = one_step(checkpoint, records, tmp_path, gradient_checkpointing=True, **options)
    assert relative_difference(recomputed, plain, start) < 1e-6


def test_the_loss_falls_and_the_rollouts_learn_the_format(checkpoint, records, tmp_path):
    trainer = make_stage1_trainer(
        checkpoint,
        records[2:4],
        tmp_path,
        trainer_options={"eval_dataset": records[2:4]},
        per_device_train_batch_size=2,
        max_steps=60,
        learning_rate=3e-3,
        logging_steps=10,
    )
    before = trainer.evaluate()
    trainer.train()
    losses = [entry["loss"] for entry in logged(trainer)]
    assert losses[-1] < 0.5 * losses[0]
    after = trainer.evaluate()
    assert before["eval_parse_rate"] == 0 and after["eval_parse_rate"] == 1


# Precision and broken numbers


@pytest.mark.parametrize("peft", [False, True])
def test_bf16_reaches_the_forward_and_keeps_the_loss(checkpoint, records, tmp_path, monkeypatch, peft):
    losses, terms = {}, stage1_trainer.loss_terms
    for bf16 in (False, True):
        trainer = make_stage1_trainer(
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

        monkeypatch.setattr(stage1_trainer, "loss_terms", recorded)
        trainer.train()
        losses[bf16] = logged(trainer)[0]["loss"]
        assert seen == {torch.bfloat16 if bf16 else torch.float32}
        assert autocast == [(bf16, torch.bfloat16)]  # the head's products are taken in the autocast dtype
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


@pytest.mark.parametrize(
    ("weights", "named"), [({}, r"'loss/text': nan.*'loss/coord_ce': nan"), (PLAIN_SFT, r"\{'loss': nan\}")]
)
def test_a_weight_that_is_not_finite_stops_the_run_before_the_optimizer_step(
    checkpoint, records, tmp_path, weights, named
):
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, max_steps=3, **(PLAIN_SGD | weights))
    with torch.no_grad():
        trainer.model.model.language_model.norm.weight[0] = math.nan
    before = parameters_of(trainer.model)
    with pytest.raises(FloatingPointError, match=f"not finite at step 1 .*{named}.*learning_rate"):
        trainer.train()
    for name, parameter in parameters_of(trainer.model).items():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_term_is_named_with_its_step(checkpoint, records, tmp_path, monkeypatch, value):
    trainer = make_stage1_trainer(
        checkpoint,
        records,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=3,
        **PLAIN_SGD,
    )
    kept, calls, terms = {}, [], stage1_trainer.loss_terms

    def broken(*args):
        sums, diagnostics = terms(*args)
        calls.append(1)
        if len(calls) == 3:  # the first micro-batch of the second step
            kept.update(parameters_of(trainer.model))
            sums["coord_ce"] = sums["coord_ce"] * value
        return sums, diagnostics

    monkeypatch.setattr(stage1_trainer, "loss_terms", broken)
    with pytest.raises(FloatingPointError, match=r"step 2 \(\{'loss/coord_ce': (nan|inf)\}\)"):
        trainer.train()
    assert trainer.state.global_step == 1
    assert all(torch.equal(kept[name], parameter) for name, parameter in parameters_of(trainer.model).items())

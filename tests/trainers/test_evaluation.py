# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Evaluation in both stages: exact figures on known predictions, several sets, and the choice of the best model."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file
from toys import PLAIN_SGD, ScriptedEngine, make_stage1_trainer, make_stage2_trainer

from coordexp_trl.protocols import ParsedCompletion
from coordexp_trl.records import DetectionObject

# Ground truth and prediction of each picture: (description, bins)
BOX, OTHER = (100, 100, 300, 400), (500, 500, 900, 900)
SCENES = [
    # Both found, one of them twice: 2 true positives, 1 false positive, 1 duplicate
    ([("red circle", BOX), ("cat", OTHER)], [("red circle", BOX), ("red circle", BOX), ("cat", OTHER)]),
    # Nothing written: 2 misses
    ([("red circle", BOX), ("cat", OTHER)], []),
    # The right box with the wrong description: 1 false positive, 1 miss
    ([("dog", BOX)], [("cat", BOX)]),
    # Case, spaces and underscores do not count; IoU 2/3: 1 true positive at 0.5
    ([("red circle", BOX)], [("Red_Circle ", (100, 100, 300, 300))]),
    # Inverted corners are read as the box they span: 1 true positive, 1 invalid box, 1 miss
    ([("cat", OTHER), ("dog", BOX)], [("cat", (900, 900, 500, 500))]),
]

# Average precision of each description at IoU .50 to .95, read at 101 recalls. Red circles rank right (IoU 1), right
# up to .65 (IoU 2/3), duplicate; cats wrong, right, right; no dog is written. Recall ends at 2/3; that of the circles
# at 1/3 from .70 on.
CIRCLES, CATS, DOGS = [67 / 101] * 4 + [34 / 101] * 6, [67 / 101 * 2 / 3] * 10, [0] * 10
AVERAGES = {
    "ap": sum(CIRCLES + CATS + DOGS) / 30,
    "ap50": (CIRCLES[0] + CATS[0]) / 3,
    "ap75": (CIRCLES[5] + CATS[5]) / 3,
    "ar": ((4 * 2 / 3 + 6 * 1 / 3) / 10 + 2 / 3) / 3,
}


@pytest.fixture(scope="module")
def scenes(records):
    """Records with the ground truth of SCENES, and what is predicted for each."""
    changed = [
        dataclasses.replace(record, objects=tuple(DetectionObject(desc=desc, bins=bins) for desc, bins in wanted))
        for record, (wanted, _) in zip(records, SCENES, strict=False)
    ]
    predicted = {
        record.images[0]: [DetectionObject(desc=desc, bins=bins) for desc, bins in found]
        for record, (_, found) in zip(changed, SCENES, strict=True)
    }
    return changed, predicted


MAKERS = {"stage1": make_stage1_trainer, "stage2": make_stage2_trainer}
both_stages = pytest.mark.parametrize("make_trainer", MAKERS.values(), ids=MAKERS.keys())


def evaluated_trainer(checkpoint, scenes, folder, make_trainer=make_stage2_trainer, eval_dataset=None, **options):
    records, predicted = scenes
    evaluated = {"eval_dataset": records if eval_dataset is None else eval_dataset}
    trainer = make_trainer(checkpoint, records, folder, trainer_options=evaluated, **options)
    ScriptedEngine(trainer, records, lambda record: trainer.protocol.encode(predicted[record.images[0]]))
    return trainer


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])  # the last batch smaller, and the whole set smaller than a batch
@pytest.mark.parametrize("training", [False, True])  # before training, and within it
@both_stages
def test_figures_are_exact_whatever_the_batches(make_trainer, checkpoint, scenes, tmp_path, batch_size, training):
    options = {"per_device_train_batch_size": 5, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = evaluated_trainer(
        checkpoint,
        scenes,
        tmp_path,
        make_trainer,
        per_device_eval_batch_size=batch_size,
        **(options if training else {}),
    )
    if training:
        trainer.train()
        (metrics,) = [entry for entry in trainer.state.log_history if "eval_f1" in entry]
    else:
        metrics = trainer.evaluate()
        assert trainer.state.log_history[-1]["eval_f1"] == metrics["eval_f1"]
    assert metrics["eval_precision"] == 4 / 6
    assert metrics["eval_recall"] == 4 / 8
    assert metrics["eval_f1"] == 8 / 14
    assert metrics["eval_mean_iou"] == pytest.approx((1 + 1 + 2 / 3 + 1) / 4, abs=1e-12)
    assert metrics["eval_objects_predicted"] == 6 / 5
    assert metrics["eval_objects_ground_truth"] == 8 / 5
    assert metrics["eval_duplicate_rate"] == 1 / 6
    assert metrics["eval_invalid_boxes"] == 1 / 5
    assert metrics["eval_objects_missed"] == 4 / 5
    assert metrics["eval_f1_75"] == 6 / 14  # without the box of IoU 2/3
    assert {name: metrics[f"eval_{name}"] for name in AVERAGES} == pytest.approx(AVERAGES, abs=1e-12)
    assert metrics["eval_parse_rate"] == 1
    assert "eval_loss" not in metrics
    calls = [(number, sampling.temperature, sampling.num_generations) for number, sampling in trainer.engine.calls]
    sizes = [min(batch_size, 5 - start) for start in range(0, 5, batch_size)]
    rolled_out = training and make_trainer is make_stage2_trainer  # for the training step
    assert calls[rolled_out:] == [(size, 0.0, 1) for size in sizes]


@both_stages
def test_the_iou_threshold_decides(make_trainer, checkpoint, scenes, tmp_path):
    metrics = evaluated_trainer(checkpoint, scenes, tmp_path, make_trainer, eval_iou_threshold=0.7).evaluate()
    assert metrics["eval_precision"] == 3 / 6
    assert metrics["eval_mean_iou"] == pytest.approx(1.0, abs=1e-12)


def test_evaluation_is_greedy_whatever_training_samples(checkpoint, scenes, tmp_path):
    trainer = evaluated_trainer(checkpoint, scenes, tmp_path, temperature=0.9, num_generations=2, top_k=5)
    trainer.evaluate()
    ((_, sampling),) = trainer.engine.calls
    assert (sampling.temperature, sampling.num_generations, sampling.top_k) == (0.0, 1, 0)
    assert sampling.max_completion_length == 64


def test_cut_completions_count_what_was_complete(checkpoint, scenes, tmp_path):
    trainer = evaluated_trainer(checkpoint, scenes, tmp_path)
    trainer.engine.finish_reason = "length"
    trainer.engine.answers = {key: [*ids, *ids[:5]] for key, ids in trainer.engine.answers.items()}
    metrics = trainer.evaluate()
    assert metrics["eval_f1"] == 8 / 14
    assert metrics["eval_truncation_rate"] == 1
    assert metrics["eval_parse_rate"] == 0


def test_objects_of_a_broken_model_rank_last(checkpoint, scenes, tmp_path):
    trainer = evaluated_trainer(checkpoint, scenes, tmp_path)
    generate = trainer.engine.generate

    def broken(*args):
        first, *others = generate(*args)
        first.logprobs = [math.nan] * len(first.logprobs)
        return [first, *others]

    trainer.engine.generate = broken
    metrics = trainer.evaluate()
    assert metrics["eval_f1"] == 8 / 14
    # The first picture's circles come after the other one, which is too loose at .75
    assert metrics["eval_ap50"] == pytest.approx(AVERAGES["ap50"], abs=1e-12)
    assert metrics["eval_ap75"] == pytest.approx((34 / 101 / 2 + CATS[5]) / 3, abs=1e-12)


@both_stages
def test_several_sets_and_sets_given_later(make_trainer, checkpoint, scenes, tmp_path):
    records, _ = scenes
    trainer = evaluated_trainer(
        checkpoint,
        scenes,
        tmp_path,
        make_trainer,
        eval_dataset={"easy": records[:1], "hard": records[1:]},
        per_device_train_batch_size=5,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    logs = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert (logs["eval_easy_precision"], logs["eval_hard_precision"]) == (2 / 3, 2 / 3)
    assert (logs["eval_easy_recall"], logs["eval_hard_recall"]) == (1.0, 2 / 6)
    assert trainer.evaluate(records[:1])["eval_recall"] == 1.0
    assert trainer.evaluate({"new": records[1:]}, metric_key_prefix="test")["test_new_recall"] == 2 / 6


@both_stages
def test_detect_returns_what_the_model_wrote(make_trainer, checkpoint, scenes, tmp_path):
    records, predicted = scenes
    trainer = evaluated_trainer(checkpoint, scenes, tmp_path, make_trainer, per_device_eval_batch_size=2)
    found = trainer.detect(records)
    assert all(isinstance(item, ParsedCompletion) for item in found)
    for record, item in zip(records, found, strict=True):
        expected = [(wanted.desc, wanted.bins) for wanted in predicted[record.images[0]]]
        assert [(got.desc, got.bins) for got in item.objects] == expected


@pytest.mark.parametrize("metric", [None, "mean_iou"])
@both_stages
def test_the_best_model_is_loaded_at_the_end(make_trainer, checkpoint, scenes, tmp_path, metric):
    records, predicted = scenes
    trainer = evaluated_trainer(
        checkpoint,
        scenes,
        tmp_path,
        make_trainer,
        per_device_train_batch_size=5,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        **PLAIN_SGD,
    )
    answers, generate = trainer.engine.answers, trainer.engine.generate

    def worse_later(prompts, sampling, features=None):
        wrong = trainer.state.global_step in (1, 3)
        trainer.engine.answers = {key: ids[:9] if wrong else ids for key, ids in answers.items()}
        return generate(prompts, sampling, features)

    trainer.engine.generate = worse_later
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert trainer.state.best_metric == (8 / 14 if metric is None else pytest.approx((3 + 2 / 3) / 4))
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (2, 3))
    parameters = dict(trainer.model.named_parameters())
    assert all(torch.equal(parameters[name], best[name]) for name in best if name in parameters)
    assert any(not torch.equal(best[name], last[name]) for name in best)

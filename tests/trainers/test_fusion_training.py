# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Both stages on fusions and on files that stay on disk: numbers as from memory, each epoch its own sample."""

import time
from pathlib import Path

import pytest
import torch
from toys import (
    PLAIN_SGD,
    NoisyEngine,
    ScriptedEngine,
    logged,
    make_stage1_trainer,
    make_stage2_trainer,
    parameters_of,
    spy,
    writer,
)

from coordexp_trl.datasets.fusion import FusionDataset, FusionSource
from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.datasets.record_views import JoinedRecords
from coordexp_trl.images import load_image
from coordexp_trl.trainers import data, ground_truth_collator

MAKERS = {"stage1": make_stage1_trainer, "stage2": make_stage2_trainer}
both_stages = pytest.mark.parametrize("make_trainer", MAKERS.values(), ids=MAKERS.keys())
SHUFFLED = {"stage1": {"train_sampling_strategy": "group_by_length"}, "stage2": {"shuffle_dataset": True}}
RUN = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "learning_rate": 1e-3}


def shuffled(make_trainer) -> dict:
    return SHUFFLED["stage1" if make_trainer is make_stage1_trainer else "stage2"]


@pytest.fixture(scope="module")
def file(records) -> Path:
    return Path(records[0].source.rsplit(":", 1)[0])


def two_sources(records, **options) -> FusionDataset:
    """An epoch takes 3 of the first 6 records, and the last 2 twice or so: 3 + 5."""
    sources = [FusionSource("large", ratio=0.5), FusionSource("small", ratio=2.5, **options)]
    return FusionDataset(sources, [records[:6], records[6:]])


def served_indices(monkeypatch, trainer) -> list[int]:
    """The records of a run, in order."""
    served = []
    if isinstance(trainer.train_dataset[0], dict):
        collate = type(trainer.data_collator).__call__
        monkeypatch.setattr(
            type(trainer.data_collator),
            "__call__",
            lambda self, rows: served.extend(row["index"] for row in rows) or collate(self, rows),
        )
    else:
        prepare = trainer._prepare_inputs
        monkeypatch.setattr(
            trainer,
            "_prepare_inputs",
            lambda samples: served.extend(sample.index for sample in samples) or prepare(samples),
        )
    trainer.train()
    return served


@pytest.mark.parametrize("make", [RecordFile, "fusion"], ids=["file", "fusion of one"])
@both_stages
def test_where_the_records_are_changes_no_number(make_trainer, checkpoint, records, file, tmp_path, make):
    runs = []
    other = FusionDataset([FusionSource("a")], [RecordFile(file)]) if make == "fusion" else RecordFile(file)
    for number, dataset in enumerate((records, other)):
        options = RUN | shuffled(make_trainer)
        trainer = make_trainer(checkpoint, dataset, tmp_path / str(number), **options)
        trainer.train()
        runs.append((logged(trainer), parameters_of(trainer.model)))
    (log, parameters), (other_log, others) = runs
    assert len(log) == 8 and log == other_log
    assert all(torch.equal(parameters[name], others[name]) for name in parameters)


@pytest.mark.parametrize("order", ["shuffled", "random", "sequential"])
@both_stages
def test_every_epoch_serves_its_own_sample(make_trainer, checkpoint, records, tmp_path, monkeypatch, order):
    fusion = two_sources(records)
    if make_trainer is make_stage1_trainer:
        options = {"train_sampling_strategy": order} if order != "shuffled" else shuffled(make_trainer)
    else:
        options = {"shuffle_dataset": order != "sequential"}
    trainer = make_trainer(checkpoint, fusion, tmp_path, **(RUN | options))
    served = served_indices(monkeypatch, trainer)
    assert fusion.epoch_length == 8 and len(served) == 16 and trainer.state.global_step == 8
    epochs = [served[:8], served[8:]]
    expected = [fusion.epoch_indices(epoch, trainer.args.seed).tolist() for epoch in range(2)]
    assert expected[0] != expected[1]
    assert [sorted(epoch) for epoch in epochs] == expected
    assert (epochs == expected) == (order == "sequential")


@both_stages
def test_workers_change_nothing(make_trainer, checkpoint, records, tmp_path, file):
    logs = []
    for number in range(2):
        options = RUN | shuffled(make_trainer) | {"dataloader_num_workers": number}
        trainer = make_trainer(checkpoint, two_sources(RecordFile(file)), tmp_path / str(number), **options)
        trainer.train()
        logs.append(logged(trainer))
    assert len(logs[0]) == 8 and logs[0] == logs[1]


@pytest.mark.parametrize("step", [3, 5])  # inside the first and the second epoch
@both_stages
def test_a_resumed_run_continues_exactly(make_trainer, checkpoint, records, tmp_path, step):
    def start(name, **options):
        options = RUN | shuffled(make_trainer) | options
        trainer = make_trainer(checkpoint, two_sources(records), tmp_path / name, **options)
        if make_trainer is make_stage2_trainer:
            NoisyEngine(trainer, records)
        return trainer

    whole = start("whole", save_strategy="steps", save_steps=1)
    whole.train()
    resumed = start("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))

    def log_of(trainer):
        return [{k: v for k, v in entry.items() if k != "num_tokens"} for entry in logged(trainer, step + 1)]

    assert log_of(resumed) == log_of(whole) and len(log_of(whole)) == 8 - step
    actual, expected = parameters_of(resumed.model), parameters_of(whole.model)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@both_stages
def test_quotas_follow_the_records_that_fit(make_trainer, checkpoint, records, tmp_path):
    fusion = FusionDataset([FusionSource("a", ratio=0.5), FusionSource("b")], [records[:4], records[4:]])
    options = {"max_length": 43 + 50, "max_completion_length": 8, "too_long": "drop"}  # two of `b` have three objects
    trainer = make_trainer(checkpoint, fusion, tmp_path, **options, **RUN)
    assert trainer.records.quotas == [2, 2] and len(trainer.records) == len(trainer.record_lengths) == 6
    trainer.train()
    assert trainer.state.global_step == 4


def test_rebalanced_batches_do_not_go_with_a_fusion(checkpoint, records, tmp_path):
    with pytest.raises(ValueError, match='train_sampling_strategy="batch_rebalance" .* Choose "group_by_length"'):
        make_stage1_trainer(checkpoint, two_sources(records), tmp_path, train_sampling_strategy="batch_rebalance")


# Instructions of each source


@pytest.fixture
def prompted(records) -> FusionDataset:
    sources = [FusionSource("plain"), FusionSource("told", prompt="Point at all the shapes you can see, please.")]
    return FusionDataset(sources, [records[:2], records[2:4]])


def texts_of(trainer, rows) -> list[str]:
    return [trainer.processing_class.tokenizer.decode(row) for row in rows]


def test_stage1_trains_under_the_instruction_of_the_source(checkpoint, prompted, tmp_path):
    trainer = make_stage1_trainer(checkpoint, prompted, tmp_path, per_device_train_batch_size=4)
    (batch,) = trainer.get_train_dataloader()
    texts = texts_of(trainer, batch["input_ids"])
    assert ["Point at all" in text for text in texts] == [False, False, True, True]
    assert [trainer.args.prompt in text for text in texts] == [True, True, False, False]
    # The lengths are those of what is trained on
    assert batch["attention_mask"].sum(1).tolist() == trainer.record_lengths.sum(1).tolist()


def test_stage2_rolls_out_and_trains_under_the_instruction_of_the_source(checkpoint, prompted, tmp_path, monkeypatch):
    trainer = make_stage2_trainer(checkpoint, prompted, tmp_path, per_device_train_batch_size=4, max_steps=1)
    rolled_out = spy(monkeypatch, trainer.engine, "generate")
    forwards = spy(monkeypatch, trainer)
    trainer.train()
    texts = texts_of(trainer, [prompt.ids for prompt in rolled_out[0][0]])
    assert ["Point at all" in text for text in texts] == [False, False, True, True]
    trained = texts_of(trainer, [prompt.ids for prompt in forwards[0][1].prompts])
    assert trained == texts


@both_stages
def test_evaluation_and_pictures_use_the_instruction_of_the_source(
    make_trainer, checkpoint, records, prompted, tmp_path, monkeypatch
):
    trainer = make_trainer(checkpoint, records, tmp_path, trainer_options={"eval_dataset": prompted})
    ScriptedEngine(trainer, records, writer(trainer))
    calls = spy(monkeypatch, trainer.engine, "generate")
    trainer.evaluate()
    trainer.detect(prompted.first_of_each(2))
    evaluated, detected = (texts_of(trainer, [prompt.ids for prompt in call[0]]) for call in calls)
    assert ["Point at all" in text for text in evaluated] == [False, False, True, True]
    assert ["Point at all" in text for text in detected] == [False, True]


@both_stages
def test_an_instruction_with_an_image_placeholder_is_refused_before_training(
    make_trainer, checkpoint, records, tmp_path
):
    bad = FusionDataset(
        [FusionSource("a"), FusionSource("b", prompt="See <|image_pad|>.")], [records[:2], records[2:4]]
    )
    with pytest.raises(ValueError, match="prompt='See <|image_pad|>.' holds 2 image placeholders"):
        make_trainer(checkpoint, bad, tmp_path)


# Metrics of each source


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not any(word in name for word in ("time", "per_second"))}


@both_stages
def test_one_pass_gives_the_figures_of_all_and_of_each(make_trainer, checkpoint, records, tmp_path):
    parts = {"easy": records[:2], "hard": records[2:6]}
    trainer = make_trainer(checkpoint, records, tmp_path, trainer_options={"eval_dataset": JoinedRecords(parts)})
    hard = {record.images for record in parts["hard"]}
    write = writer(trainer, lambda objects: objects)
    ScriptedEngine(trainer, records, lambda record: [] if record.images in hard else write(record))
    metrics = trainer.evaluate()
    assert sum(number for number, _ in trainer.engine.calls) == 6
    assert (metrics["eval_easy_f1"], metrics["eval_hard_f1"]) == (1.0, 0.0)
    assert metrics["eval_recall"] == 4 / 11 and metrics["eval_f1"] == 2 * 4 / (2 * 4 + 7)  # of 2, 2 and 1, 1, 2, 3
    assert metrics["eval_hard_objects_ground_truth"] == 7 / 4
    assert trainer.state.log_history[-1]["eval_easy_ap"] == 1.0
    # The same as sets of their own, and as a dictionary of them
    alone = without_clock(trainer.evaluate(parts["easy"]))
    assert alone == {name: metrics[name.replace("eval_", "eval_easy_")] for name in alone}
    dictionary = trainer.evaluate(parts)
    assert without_clock(dictionary) == without_clock(metrics)


@both_stages
def test_the_best_model_of_several_sets_is_that_of_all_images(make_trainer, checkpoint, records, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    parts = {"one": records[:2], "two": records[2:4]}
    trainer = make_trainer(
        checkpoint,
        records,
        tmp_path,
        trainer_options={"eval_dataset": parts},
        load_best_model_at_end=True,
        **options,
        **PLAIN_SGD,
    )
    ScriptedEngine(trainer, records, writer(trainer))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "eval_f1" in entry]
    assert len(logs) == 2 and trainer.state.best_metric == logs[0]["eval_f1"] > 0
    assert {"eval_one_f1", "eval_two_f1"} <= logs[0].keys()


# The loader


@both_stages
def test_the_wait_for_data_is_measured(make_trainer, checkpoint, records, tmp_path, monkeypatch):
    for module in (data, ground_truth_collator):
        monkeypatch.setattr(module, "load_image", lambda record: time.sleep(0.02) or load_image(record))
    trainer = make_trainer(checkpoint, records, tmp_path, per_device_train_batch_size=2, max_steps=2)
    trainer.train()
    waits = [entry["time/data"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(waits) == 2 and min(waits) > 2 * 0.02

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What Stage-1 trains on: the order of the objects, records of like length in a batch, and nothing cut."""

import dataclasses
from collections import Counter
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from toys import logged, make_stage1_trainer, parameters_of

from coordexp_trl import CoordExpStage1Config
from coordexp_trl.trainers.data import Sample

RUN = {"per_device_train_batch_size": 3, "num_train_epochs": 2, "learning_rate": 1e-3}


def canonical(trainer, record):
    """Objects of a record from top to bottom, then from left to right."""
    objects = [(item.desc, item.box_bins(record.width, record.height, trainer.grid)) for item in record.objects]
    return sorted(objects, key=lambda item: (item[1][1], item[1][0]))


def written(trainer, batches) -> list[list[tuple]]:
    """What the labels of every record in some batches say, (description, bins) of each object."""
    rows = [row[row != -100].tolist() for batch in batches for row in batch["labels"]]
    completions = [trainer.protocol.parse(row) for row in rows]
    assert all(item.ended and not item.dropped for item in completions)
    return [[(item.desc, item.bins) for item in completion.objects] for completion in completions]


def batches_of_a_run(monkeypatch, trainer) -> list[dict]:
    """Every batch of a training run, whose forwards are left out."""
    batches = []

    def take(model, inputs, **_):
        batches.append(inputs)
        return next(model.parameters()).sum() * 0

    monkeypatch.setattr(trainer, "compute_loss", take)
    trainer.train()
    persistent = trainer.callback_handler.train_dataloader._iterator
    if persistent is not None:
        persistent._shutdown_workers()  # garbage collection would take seconds
    return batches


def trained_on(monkeypatch, trainer) -> list[list[tuple]]:
    """What is written of every record of a run, in order."""
    return written(trainer, batches_of_a_run(monkeypatch, trainer))


# The order of the objects


@pytest.mark.parametrize("order", ["sorted", "as_is"])
@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_what_is_written_of_each_record(checkpoint, records, tmp_path, order, protocol):
    records = [dataclasses.replace(record, objects=record.objects[::-1]) for record in records]
    trainer = make_stage1_trainer(
        checkpoint, records, tmp_path, object_order=order, protocol=protocol, per_device_train_batch_size=3
    )
    texts = written(trainer, trainer.get_train_dataloader())
    as_annotated = [
        [(item.desc, item.box_bins(record.width, record.height, trainer.grid)) for item in record.objects]
        for record in records
    ]
    in_order = [canonical(trainer, record) for record in records]
    assert as_annotated != in_order
    assert texts == (in_order if order == "sorted" else as_annotated)


@pytest.mark.parametrize(("order", "same"), [("sorted", True), ("random", True), ("as_is", False)])
def test_the_order_of_the_annotations_changes_as_is_alone(checkpoint, records, tmp_path, order, same):
    shuffled = [dataclasses.replace(record, objects=record.objects[::-1]) for record in records]
    runs = []
    for these in (records, shuffled):
        trainer = make_stage1_trainer(
            checkpoint, these, tmp_path, object_order=order, **(RUN | {"num_train_epochs": 1})
        )
        trainer.train()
        runs.append((parameters_of(trainer.model), logged(trainer)))
    (parameters, log), (others, other_log) = runs
    assert (log == other_log) == same
    assert all(torch.equal(parameters[name], others[name]) for name in parameters) == same


@pytest.fixture(scope="module")
def random_texts(checkpoint, records, tmp_path_factory):
    """What two epochs in random order are trained on, record by record."""
    trainer = make_stage1_trainer(checkpoint, records, tmp_path_factory.mktemp("random"), object_order="random", **RUN)
    with pytest.MonkeyPatch.context() as patch:
        texts = trained_on(patch, trainer)
    for text, record in zip(texts, records * 2, strict=True):
        assert sorted(text) == sorted(canonical(trainer, record))
    return texts


def test_random_orders_change_from_epoch_to_epoch_and_from_record_to_record(random_texts, records):
    first, second = random_texts[: len(records)], random_texts[len(records) :]
    several = [k for k, record in enumerate(records) if len(record.objects) > 1]
    assert 0 < sum(first[k] != second[k] for k in several) < len(several)
    # Not one shuffle for all: records with equally many objects are shuffled differently
    shuffles = [[sorted(first[k]).index(item) for item in first[k]] for k in several]
    assert len(set(map(tuple, shuffles))) > 2


@pytest.mark.parametrize(
    "options",
    [
        {"dataloader_num_workers": 1},  # workers that live for an epoch
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},  # and longer
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["worker", "persistent workers", "other batches"],
)
def test_random_orders_depend_on_seed_epoch_and_record_alone(
    checkpoint, records, tmp_path, monkeypatch, random_texts, options
):
    torch.manual_seed(123)
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, object_order="random", **(RUN | options))
    assert trained_on(monkeypatch, trainer) == random_texts


@pytest.mark.parametrize("seed", ["seed", "data_seed"])
def test_another_seed_gives_another_order(checkpoint, records, tmp_path, monkeypatch, random_texts, seed):
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, object_order="random", **RUN, **{seed: 7})
    assert trained_on(monkeypatch, trainer) != random_texts


def test_a_worker_that_was_started_anew_sees_the_epoch_change(checkpoint, records, tmp_path):
    # Spawned workers get the collator by pickling it
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, object_order="random")
    copy = ForkingPickler.loads(bytes(ForkingPickler.dumps(trainer.data_collator)))
    rows = [trainer.train_dataset[k] for k in range(len(records))]
    texts = []
    for epoch in range(3):
        trainer.data_collator.epoch.fill_(epoch)
        here, there = (written(trainer, [collator(rows)]) for collator in (trainer.data_collator, copy))
        assert here == there
        texts.append(here)
    assert texts[0] != texts[1] != texts[2]


def test_evaluation_samples_pass_through(checkpoint, records, tmp_path):
    trainer = make_stage1_trainer(checkpoint, records, tmp_path)
    samples = [Sample(0, records[0])]
    assert trainer.data_collator(samples) is samples


# Records of like length


@pytest.fixture
def many(records):
    """Sixty-four records of 1 to 3 objects."""
    return records * 8


def padding(lengths, order, batch_size) -> int:
    batches = [[lengths[k] for k in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_batches_are_of_like_length_by_default(checkpoint, many, tmp_path, monkeypatch):
    trainer = make_stage1_trainer(
        checkpoint,
        many,
        tmp_path,
        train_sampling_strategy=CoordExpStage1Config.train_sampling_strategy,
        per_device_train_batch_size=4,
        num_train_epochs=2,
    )
    served, collate = [], type(trainer.data_collator).__call__
    monkeypatch.setattr(
        type(trainer.data_collator),
        "__call__",
        lambda self, rows: served.extend(row["index"] for row in rows) or collate(self, rows),
    )
    masks = [batch["attention_mask"] for batch in batches_of_a_run(monkeypatch, trainer)]
    first, second = served[:64], served[64:]
    assert sorted(first) == sorted(second) == list(range(64)) and first != second
    lengths = list(trainer.train_dataset["length"])
    shuffled = [padding(lengths, torch.randperm(64).tolist(), 4) for _ in range(20)]
    assert max(padding(lengths, order, 4) for order in (first, second)) < min(shuffled) / 2
    # The lengths are those of what is trained on
    assert sum(int((mask == 0).sum()) for mask in masks) == padding(lengths, first, 4) + padding(lengths, second, 4)
    assert [row.sum() for mask in masks for row in mask] == [lengths[k] for k in served]


@pytest.mark.parametrize("strategy", ["random", "sequential", "batch_rebalance"])
def test_other_strategies_serve_each_record_once(checkpoint, records, tmp_path, monkeypatch, strategy):
    trainer = make_stage1_trainer(
        checkpoint, records, tmp_path, train_sampling_strategy=strategy, **(RUN | {"per_device_train_batch_size": 2})
    )
    counts = Counter(map(tuple, trained_on(monkeypatch, trainer)))
    assert counts == Counter(tuple(canonical(trainer, record)) for record in records * 2)


# Nothing is cut


def test_dropped_records_are_not_trained_on_and_all_others_are_whole(checkpoint, records, tmp_path, monkeypatch):
    kept = [record for record in records if len(record.objects) < 3]
    trainer = make_stage1_trainer(
        checkpoint, records, tmp_path, max_length=43 + 42, too_long="drop", per_device_train_batch_size=4, max_steps=2
    )
    assert max(trainer.train_dataset["length"]) == 43 + 42
    assert trained_on(monkeypatch, trainer) == [canonical(trainer, record) for record in kept]

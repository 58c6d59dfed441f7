# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the data loaders serve: decoded records, repeated generation batches, and steps of records of like length."""

from collections import Counter
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from trl.trainer.utils import identity

from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError
from coordexp_trl.trainers.data import GenerationBatchSampler, LengthGroupedSampler, RecordDataset, Sample


@pytest.fixture
def dataset(tmp_path) -> RecordDataset:
    """Four records; picture k is k + 1 pixels wide and of one colour."""
    records = []
    for k in range(4):
        Image.new("RGB", (k + 1, 2), (k, 0, 0)).save(tmp_path / f"{k}.png")
        item = DetectionObject(desc="cat", bins=(0, 0, 9, 9))
        records.append(DetectionRecord(images=(f"{k}.png",), width=k + 1, height=2, objects=(item,), root=tmp_path))
    return RecordDataset(records)


def batches(sampler) -> list[list[tuple[int, bool]]]:
    items = list(sampler)
    assert len(items) == len(sampler) and len(items) % sampler.batch_size == 0
    return [items[start : start + sampler.batch_size] for start in range(0, len(items), sampler.batch_size)]


SAMPLERS = st.builds(
    GenerationBatchSampler,
    num_records=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    repeat_count=st.integers(1, 4),
    shuffle=st.booleans(),
    seed=st.integers(0, 3),
)


@settings(max_examples=60)
@given(sampler=SAMPLERS)
def test_whole_batches_are_repeated_and_no_record_is_left_out(sampler):
    served = batches(sampler)
    groups = [served[start : start + sampler.repeat_count] for start in range(0, len(served), sampler.repeat_count)]
    assert len(groups) == -(-sampler.num_records // sampler.batch_size)
    counts = Counter()
    for group in groups:
        indices = [[index for index, _ in batch] for batch in group]
        assert all(row == indices[0] for row in indices)  # the same records in the same order
        flags = [{with_image for _, with_image in batch} for batch in group]
        assert flags == [{True}] + [{False}] * (sampler.repeat_count - 1)  # images come once
        counts.update(indices[0])
    assert set(counts) == set(range(sampler.num_records))
    # Only the last batch is filled up, evenly
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) - sampler.num_records < sampler.batch_size


def test_the_last_batch_is_filled_from_the_beginning():
    sampler = GenerationBatchSampler(num_records=5, batch_size=4, repeat_count=2, shuffle=False, seed=0)
    assert batches(sampler) == [
        [(0, True), (1, True), (2, True), (3, True)],
        [(0, False), (1, False), (2, False), (3, False)],
        [(4, True), (0, True), (1, True), (2, True)],
        [(4, False), (0, False), (1, False), (2, False)],
    ]


def test_a_dataset_smaller_than_a_batch_is_repeated_in_it():
    sampler = GenerationBatchSampler(num_records=2, batch_size=5, repeat_count=1, shuffle=False, seed=0)
    assert [index for index, _ in sampler] == [0, 1, 0, 1, 0]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, shuffle=True):
        sampler = GenerationBatchSampler(num_records=20, batch_size=5, repeat_count=1, shuffle=shuffle, seed=seed)
        sampler.set_epoch(epoch)
        first, second = list(sampler), list(sampler)
        assert first == second  # iterating does not move it on
        return [index for index, _ in first]

    assert order(0, 0) == order(0, 0) and order(7, 3) == order(7, 3)
    orders = [order(0, 0), order(0, 1), order(0, 2), order(9, 0)]
    assert len(set(map(tuple, orders))) == 4
    assert order(0, 0, shuffle=False) == order(5, 2, shuffle=False) == list(range(20))


def test_shuffling_ignores_the_global_generator_and_leaves_it_alone():
    sampler = GenerationBatchSampler(num_records=20, batch_size=5, repeat_count=1, shuffle=True, seed=0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(sampler)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert list(sampler) == first


def test_records_come_with_their_images(dataset):
    assert len(dataset) == 4
    sample = dataset[2]
    assert isinstance(sample, Sample) and sample.index == 2 and sample.record is dataset.records[2]
    assert sample.image.size == (3, 2) and np.asarray(sample.image)[0, 0].tolist() == [2, 0, 0]
    assert sample.load() is sample.image


def test_images_are_decoded_later_where_they_were_not_asked_for(dataset):
    with_image, without = dataset[(1, True)], dataset[(1, False)]
    assert with_image.image is not None and without.image is None
    assert without.record is with_image.record and without.index == 1
    assert without.load().tobytes() == with_image.image.tobytes()


def test_a_damaged_image_is_named(dataset):
    dataset.records[3].image_path.write_bytes(b"no picture")
    assert dataset[(3, False)].image is None
    with pytest.raises(RecordError, match=r"3\.png.*cannot be decoded"):
        dataset[3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_through_a_data_loader(dataset, num_workers):
    sampler = GenerationBatchSampler(num_records=4, batch_size=3, repeat_count=2, shuffle=False, seed=0)
    loader = DataLoader(dataset, batch_size=3, sampler=sampler, collate_fn=identity, num_workers=num_workers)
    served = [[(sample.index, sample.image is not None) for sample in batch] for batch in loader]
    assert served == batches(sampler)
    assert served[2] == [(3, True), (0, True), (1, True)]


# Steps of records of like length


def steps(sampler) -> list[list[int]]:
    order = list(sampler)
    assert len(order) == len(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    batch_size=st.integers(1, 7),
    block_size=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_each_record_is_served_once_and_blocks_are_sorted(lengths, batch_size, block_size, seed):
    sampler = LengthGroupedSampler(lengths, batch_size, seed, block_size)
    served = steps(sampler)
    assert sorted(sum(served, [])) == list(range(len(lengths)))
    whole = [step for step in served if len(step) == batch_size]
    assert len(whole) == len(lengths) // batch_size
    for step in whole:
        assert [lengths[k] for k in step] == sorted((lengths[k] for k in step), reverse=True)
    if len(whole) <= block_size:  # one block: no two steps overlap in length
        spans = sorted((min(lengths[k] for k in step), max(lengths[k] for k in step)) for step in whole)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_steps_of_like_length_come_in_random_order():
    lengths = list(range(400))
    sampler = LengthGroupedSampler(lengths, batch_size=4, seed=0)
    served = steps(sampler)
    longest = [max(step) for step in served]
    # 50 steps are sorted together, then all are shuffled: neighbours are no nearer than any two steps
    assert fmean(max(step) - min(step) for step in served) < 12
    # A third of the range, as at random
    assert 100 < fmean(abs(one - other) for one, other in pairwise(longest)) < 170


def test_the_last_step_that_is_not_full_is_a_sample_like_any_other():
    lengths = [1] * 50 + [100] * 49
    means = []
    for epoch in range(30):
        sampler = LengthGroupedSampler(lengths, batch_size=10, seed=0)
        sampler.set_epoch(epoch)
        last = steps(sampler)[-1]
        assert len(last) == 9
        means.append(fmean(lengths[k] for k in last))
    assert min(means) > 1 and max(means) < 100 and 40 < fmean(means) < 60


def test_the_order_of_lengths_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = LengthGroupedSampler([k % 7 for k in range(60)], batch_size=4, seed=seed)
        sampler.set_epoch(epoch)
        torch.manual_seed(len(orders))
        state = torch.get_rng_state()
        first = list(sampler)
        assert torch.equal(torch.get_rng_state(), state) and list(sampler) == first
        return tuple(first)

    orders = []
    for seed, epoch in ((0, 0), (0, 1), (0, 2), (9, 0), (0, 0)):
        orders.append(order(seed, epoch))
    assert orders[0] == orders[-1] and len(set(orders)) == 4

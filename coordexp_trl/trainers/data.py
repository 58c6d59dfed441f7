# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Records as the trainers' data loader serves them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from coordexp_trl.images import load_image
from coordexp_trl.records import DetectionRecord


@dataclass
class Sample:
    """
    One record of a batch.

    Attributes:
        index (`int`):
            Position in the dataset.
        record ([`DetectionRecord`]):
            The record.
        image (`PIL.Image.Image`, *optional*):
            Decoded image; absent where the batch repeats one whose images were served before.
    """

    index: int
    record: DetectionRecord
    image: Image.Image | None = None

    def load(self) -> Image.Image:
        """Returns the image, decoding it if the loader did not."""
        return self.image if self.image is not None else load_image(self.record)


def without_repeats(samples: Sequence[Sample]) -> tuple[list[Sample], list[int]]:
    """
    Args:
        samples (`Sequence[Sample]`):
            Samples, some of which may be of the same record.

    Returns:
        `tuple[list[Sample], list[int]]`: One sample of each record, and the place of every given sample among them.
    """
    distinct: dict[int, Sample] = {}
    for sample in samples:
        distinct.setdefault(sample.index, sample)
    order = {index: place for place, index in enumerate(distinct)}
    return list(distinct.values()), [order[sample.index] for sample in samples]


class RecordDataset(Dataset):
    """
    Decodes images in the data-loader workers.

    Args:
        records (`Sequence[DetectionRecord]`):
            Records.
    """

    def __init__(self, records: Sequence[DetectionRecord]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, bool]) -> Sample:
        index, with_image = key if isinstance(key, tuple) else (key, True)
        record = self.records[index]
        return Sample(index, record, load_image(record) if with_image else None)


class GenerationBatchSampler(Sampler):
    """
    Yields each generation batch `repeat_count` times in a row, once with its images and then without: the trainer
    generates at the first and takes the other micro-batches from its buffer. No record is left out: the last batch of
    an epoch is filled up from the epoch's beginning.

    Args:
        num_records (`int`):
            Size of the dataset.
        batch_size (`int`):
            Records in one generation batch, over all processes.
        repeat_count (`int`):
            Micro-steps that one generation batch serves.
        shuffle (`bool`):
            Whether to shuffle each epoch.
        seed (`int`):
            Seed of the shuffling; the order depends on nothing but (seed, epoch).
    """

    def __init__(self, num_records: int, batch_size: int, repeat_count: int, shuffle: bool, seed: int):
        self.num_records = num_records
        self.batch_size = batch_size
        self.repeat_count = repeat_count
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_records // self.batch_size) * self.batch_size * self.repeat_count

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = (
            torch.randperm(self.num_records, generator=generator) if self.shuffle else torch.arange(self.num_records)
        )
        order = order.tolist()
        for start in range(0, self.num_records, self.batch_size):
            batch = [order[(start + k) % self.num_records] for k in range(self.batch_size)]
            for repeat in range(self.repeat_count):
                yield from ((index, repeat == 0) for index in batch)


class LengthGroupedSampler(Sampler):
    """
    Records of like length in one optimizer step, the steps in random order.

    Transformers' sampler of that name serves the steps of a block from the longest to the shortest; for detection that
    is a run of steps whose images all have many objects, then few, and the model learns the run instead of the image.

    Args:
        lengths (`Sequence[int]`):
            Length of each record.
        batch_size (`int`):
            Records in one optimizer step, over all processes.
        seed (`int`):
            Seed; the order depends on nothing but (seed, epoch).
        block_size (`int`, *optional*, defaults to `50`):
            Steps whose records are sorted together.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, block_size: int = 50):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.block_size = block_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        # What does not fill a step is drawn before sorting: the last step is a sample like any other
        full = len(order) - len(order) % self.batch_size
        steps = []
        for start in range(0, full, self.batch_size * self.block_size):
            block = order[start : min(start + self.batch_size * self.block_size, full)]
            block.sort(key=self.lengths.__getitem__, reverse=True)
            steps += [block[k : k + self.batch_size] for k in range(0, len(block), self.batch_size)]
        for step in torch.randperm(len(steps), generator=generator).tolist():
            yield from steps[step]
        yield from order[full:]

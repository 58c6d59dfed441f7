# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Records as the trainers' data loader serves them."""

from collections.abc import Callable, Iterator, Sequence
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


class EpochSampler(Sampler):
    """
    The records of each epoch, in their order or shuffled. Everything depends on (seed, epoch) alone.

    Args:
        num_records (`int`):
            Records of an epoch.
        seed (`int`):
            Seed of the shuffling.
        shuffle (`bool`, *optional*, defaults to `True`):
            Whether to shuffle each epoch.
        epoch_indices (`Callable[[int, int], Sequence[int]]`, *optional*):
            Gives the records of an epoch from its number and the seed, see [`FusionDataset.epoch_indices`]; by default
            every epoch has the records from 0 to `num_records - 1`.
    """

    def __init__(
        self,
        num_records: int,
        seed: int,
        shuffle: bool = True,
        epoch_indices: Callable[[int, int], Sequence[int]] | None = None,
    ):
        self.num_records = num_records
        self.seed = seed
        self.shuffle = shuffle
        self.epoch_indices = epoch_indices
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_records

    def __iter__(self) -> Iterator[int]:
        return iter(self._order(self._generator()))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + self.epoch)

    def _order(self, generator: torch.Generator) -> list[int]:
        order = torch.arange(self.num_records)
        if self.epoch_indices is not None:
            order = torch.as_tensor(self.epoch_indices(self.epoch, self.seed))
            assert len(order) == self.num_records
        return (order[torch.randperm(len(order), generator=generator)] if self.shuffle else order).tolist()


class GenerationBatchSampler(EpochSampler):
    """
    Yields each generation batch `repeat_count` times in a row, once with its images and then without: the trainer
    generates at the first and takes the other micro-batches from its buffer. No record is left out: the last batch of
    an epoch is filled up from the epoch's beginning.

    Args:
        num_records (`int`):
            Records of an epoch.
        batch_size (`int`):
            Records in one generation batch, over all processes.
        repeat_count (`int`):
            Micro-steps that one generation batch serves.
        shuffle (`bool`):
            Whether to shuffle each epoch.
        seed (`int`):
            Seed of the shuffling; the order depends on nothing but (seed, epoch).
        epoch_indices (`Callable[[int, int], Sequence[int]]`, *optional*):
            See [`EpochSampler`].
    """

    def __init__(
        self,
        num_records: int,
        batch_size: int,
        repeat_count: int,
        shuffle: bool,
        seed: int,
        epoch_indices: Callable[[int, int], Sequence[int]] | None = None,
    ):
        super().__init__(num_records, seed, shuffle, epoch_indices)
        self.batch_size = batch_size
        self.repeat_count = repeat_count

    def __len__(self) -> int:
        return -(-self.num_records // self.batch_size) * self.batch_size * self.repeat_count

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        order = self._order(self._generator())
        for start in range(0, self.num_records, self.batch_size):
            batch = [order[(start + k) % self.num_records] for k in range(self.batch_size)]
            for repeat in range(self.repeat_count):
                yield from ((index, repeat == 0) for index in batch)


class LengthGroupedSampler(EpochSampler):
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
        num_records (`int`, *optional*):
            Records of an epoch; as many as there are lengths by default.
        epoch_indices (`Callable[[int, int], Sequence[int]]`, *optional*):
            See [`EpochSampler`].
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        block_size: int = 50,
        num_records: int | None = None,
        epoch_indices: Callable[[int, int], Sequence[int]] | None = None,
    ):
        super().__init__(len(lengths) if num_records is None else num_records, seed, True, epoch_indices)
        self.lengths = lengths
        self.batch_size = batch_size
        self.block_size = block_size

    def __iter__(self) -> Iterator[int]:
        generator = self._generator()
        order = self._order(generator)
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

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Sequences of records made of other sequences, none of which is copied."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordexp_trl.records import DetectionRecord


class RecordView(Sequence[DetectionRecord]):
    """
    Some records of a sequence.

    Args:
        records (`Sequence[DetectionRecord]`):
            The sequence.
        indices (`Sequence[int]`):
            Positions in it, from 0.
    """

    def __init__(self, records: Sequence[DetectionRecord], indices: Sequence[int]):
        self.records = records
        self.indices = indices if isinstance(indices, range) else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> "DetectionRecord | RecordView":
        if isinstance(index, slice):
            return RecordView(self.records, self.indices[index])
        return self.records[int(self.indices[index])]


class JoinedRecords(Sequence[DetectionRecord]):
    """
    Several sequences of records one after another. A record's `dataset` is the name of its sequence, and its `prompt`
    that of the sequence, if it has one.

    Args:
        parts (`Mapping[str, Sequence[DetectionRecord]]`):
            The sequences by name.
        prompts (`Mapping[str, str | None]`, *optional*):
            Instructions by name.
    """

    def __init__(
        self, parts: Mapping[str, Sequence[DetectionRecord]], prompts: Mapping[str, str | None] | None = None
    ):
        self.parts = dict(parts)
        self.prompts = dict(prompts or {})
        self.bounds = np.cumsum([0, *map(len, self.parts.values())])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, index: int | slice) -> DetectionRecord | RecordView:
        if isinstance(index, slice):
            return RecordView(self, range(len(self))[index])
        index = range(len(self))[index]
        number = int(np.searchsorted(self.bounds, index, side="right")) - 1
        name, part = list(self.parts.items())[number]
        record = part[index - int(self.bounds[number])]
        prompt = self.prompts.get(name)
        return dataclasses.replace(record, dataset=name, prompt=record.prompt if prompt is None else prompt)

    def first_of_each(self, count: int) -> list[DetectionRecord]:
        """Returns up to `count` records, the first ones of all parts in turn."""
        return [self[position] for position in self.first_positions(count)]

    def first_positions(self, count: int) -> list[int]:
        """Returns the positions of `first_of_each`."""
        order = sorted(
            (place, number)
            for number, part in enumerate(self.parts.values())
            for place in range(min(count, len(part)))
        )
        return [int(self.bounds[number]) + place for place, number in order[:count]]

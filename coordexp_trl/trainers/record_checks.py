# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Refuses records that could not be trained on or evaluated, before anything is generated."""

from array import array
from collections.abc import Sequence

import numpy as np
from accelerate import PartialState
from accelerate.logging import get_logger
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.fusion import FusionDataset
from coordexp_trl.datasets.record_views import RecordView
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.protocols import Protocol
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import ground_truth

logger = get_logger(__name__)

_LISTED = 20  # records named in a message


class PromptMeter:
    """
    Measures the prompts of records that pass by one after another, and keeps four bytes of each.

    Args:
        prompts ([`PromptBuilder`]):
            Gives the prompt lengths.
    """

    def __init__(self, prompts: PromptBuilder):
        self.prompts = prompts
        self.kinds: dict[tuple[tuple[int, int], str | None], int] = {}
        self.kind_of = array("i")

    def add(self, record: DetectionRecord) -> None:
        """
        Args:
            record ([`DetectionRecord`]):
                The next record.

        Raises:
            `ValueError`: If it has not exactly one image.
        """
        if len(record.images) != 1:
            raise ValueError(f"{record.place}: images has {len(record.images)} entries; exactly one is supported.")
        kind = ((record.width, record.height), record.prompt)
        self.kind_of.append(self.kinds.setdefault(kind, len(self.kinds)))

    def lengths(self) -> np.ndarray:
        """Returns the number of prompt tokens of each record."""
        sizes, instructions = zip(*self.kinds, strict=True)
        return np.array(self.prompts.lengths(sizes, instructions), dtype=np.int32)[self.kind_of]


def check_not_empty(name: str, records: Sequence[DetectionRecord]) -> None:
    """Raises a `ValueError` if the dataset argument `name` is empty."""
    if not len(records):
        raise ValueError(f"{name} is empty: at least one record is needed.")


def _measured(records: Sequence[DetectionRecord]) -> tqdm:
    quiet = not PartialState().is_local_main_process
    return tqdm(records, desc="Measuring records", unit="record", disable=quiet, delay=2, leave=False)


def fit_records(
    records: Sequence[DetectionRecord],
    prompts: PromptBuilder,
    protocol: Protocol,
    grid: CoordinateGrid,
    max_length: int,
    too_long: str,
    geometry: str = "box",
) -> tuple[Sequence[DetectionRecord], np.ndarray]:
    """
    Keeps the training records whose prompt and ground truth fit. They are read one by one, and none is held.

    Args:
        records (`Sequence[DetectionRecord]`):
            Training records.
        prompts ([`PromptBuilder`]):
            Gives the prompt lengths.
        protocol ([`Protocol`]):
            Gives the ground-truth lengths.
        grid ([`CoordinateGrid`]):
            Coordinate grid.
        max_length (`int`):
            Most tokens of prompt and ground truth.
        too_long (`str`):
            `"error"` or `"drop"`.
        geometry (`str`, *optional*, defaults to `"box"`):
            `"box"` or `"native"`, see [`ground_truth`].

    Returns:
        The records that are left, and an `np.ndarray` of shape `(num_records, 2)`: the lengths of prompt and ground
        truth (with its end token) of each.

    Raises:
        `ValueError`: If a record has not exactly one image, if a description cannot be written by the protocol, if
            records are too long and `too_long="error"`, or if none is left.
    """
    meter, written = PromptMeter(prompts), array("i")
    for record in _measured(records):
        meter.add(record)
        try:
            written.append(len(protocol.encode(ground_truth(record, grid, geometry=geometry))) + 1)
        except ValueError as error:
            raise ValueError(f"{record.place}: {error}") from error
    lengths = np.stack([meter.lengths(), np.array(written, dtype=np.int32)], axis=1)
    fits = lengths.sum(1) <= max_length
    if fits.all():
        return records, lengths
    over = np.flatnonzero(~fits)
    listed = [f"{records[int(index)].place} ({lengths[index, 0]} + {lengths[index, 1]})" for index in over[:_LISTED]]
    message = (
        f"{len(over)} of {len(records)} records of train_dataset exceed max_length={max_length} tokens with prompt "
        f"and ground truth: {', '.join(listed)}{', …' if len(over) > _LISTED else ''}."
    )
    if too_long == "error":
        raise ValueError(
            f'{message} Raise max_length, reduce max_pixels, or leave these records out with too_long="drop".'
        )
    if not fits.any():
        raise ValueError(f"{message} None is left to train on. Raise max_length or reduce max_pixels.")
    logger.warning(f"{message} They are left out (too_long={too_long!r}).")
    kept = np.flatnonzero(fits)
    select = records.select if isinstance(records, FusionDataset) else lambda kept: RecordView(records, kept)
    return select(kept), lengths[kept]


def prompt_lengths(records: Sequence[DetectionRecord], prompts: PromptBuilder) -> np.ndarray:
    """
    Args:
        records (`Sequence[DetectionRecord]`):
            Records, read one by one.
        prompts ([`PromptBuilder`]):
            Gives the prompt lengths.

    Returns:
        `np.ndarray`: Number of prompt tokens of each record.

    Raises:
        `ValueError`: If a record has not exactly one image.
    """
    meter = PromptMeter(prompts)
    for record in _measured(records):
        meter.add(record)
    return meter.lengths()


def check_rollout_lengths(
    name: str,
    records: Sequence[DetectionRecord],
    lengths: np.ndarray,
    max_length: int,
    max_completion_length: int,
) -> int:
    """
    Args:
        name (`str`):
            Name of the dataset argument, for messages.
        records (`Sequence[DetectionRecord]`):
            Records that are rolled out.
        lengths (`np.ndarray`):
            Number of prompt tokens of each.
        max_length (`int`):
            Most tokens of prompt and rollout.
        max_completion_length (`int`):
            Most tokens of a rollout.

    Returns:
        `int`: Tokens of the longest prompt and rollout together.

    Raises:
        `ValueError`: If the longest prompt leaves no room for the longest rollout.
    """
    longest = int(lengths.argmax())
    total = int(lengths[longest]) + max_completion_length
    if total > max_length:
        raise ValueError(
            f"max_length={max_length} is too short for the rollouts of {name}: the prompt of {records[longest].place} "
            f"takes {lengths[longest]} tokens and max_completion_length={max_completion_length}. Reduce "
            "max_pixels or max_completion_length, or raise max_length."
        )
    return total


def warn_of_cut_rollouts(lengths: np.ndarray, max_completion_length: int) -> None:
    """Warns of training records (lengths from [`fit_records`]) whose rollouts can never be complete."""
    cut = int((lengths[:, 1] > max_completion_length).sum())
    if cut:
        logger.warning(
            f"{cut} of {len(lengths)} records of train_dataset have a ground truth longer than "
            f"max_completion_length={max_completion_length}: their rollouts will always be cut."
        )

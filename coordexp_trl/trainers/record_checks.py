# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Refuses records that could not be trained on or evaluated, before anything is generated."""

from collections.abc import Sequence

from accelerate import PartialState
from accelerate.logging import get_logger
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.protocols import Protocol
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import ground_truth

logger = get_logger(__name__)

_LISTED = 20  # records named in a message


def check_images(name: str, records: Sequence[DetectionRecord]) -> None:
    """
    Args:
        name (`str`):
            Name of the dataset argument, for messages.
        records (`Sequence[DetectionRecord]`):
            Records.

    Raises:
        `ValueError`: If the dataset is empty, or a record has not exactly one image.
    """
    if not len(records):
        raise ValueError(f"{name} is empty: at least one record is needed.")
    for record in records:
        if len(record.images) != 1:
            raise ValueError(f"{record.place}: images has {len(record.images)} entries; exactly one is supported.")


def fit_records(
    records: Sequence[DetectionRecord],
    prompts: PromptBuilder,
    protocol: Protocol,
    grid: CoordinateGrid,
    max_length: int,
    too_long: str,
) -> tuple[Sequence[DetectionRecord], list[tuple[int, int]]]:
    """
    Keeps the training records whose prompt and ground truth fit.

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

    Returns:
        The records that are left, and the lengths of prompt and ground truth (with its end token) of each.

    Raises:
        `ValueError`: If a description cannot be written by the protocol, if records are too long and
            `too_long="error"`, or if none is left.
    """
    prompt_lengths = prompts.lengths([(record.width, record.height) for record in records])
    lengths, kept, listed = [], [], []
    quiet = not PartialState().is_local_main_process
    progress = tqdm(records, desc="Measuring records", unit="record", disable=quiet, delay=2, leave=False)
    for index, (record, prompt_length) in enumerate(zip(progress, prompt_lengths, strict=True)):
        try:
            length = len(protocol.encode(ground_truth(record, grid))) + 1
        except ValueError as error:
            raise ValueError(f"{record.place}: {error}") from error
        if prompt_length + length <= max_length:
            kept.append(index)
            lengths.append((prompt_length, length))
        else:
            listed.append(f"{record.place} ({prompt_length} + {length})")
    if not listed:
        return records, lengths
    message = (
        f"{len(listed)} of {len(records)} records of train_dataset exceed max_length={max_length} tokens with prompt "
        f"and ground truth: {', '.join(listed[:_LISTED])}{', …' if len(listed) > _LISTED else ''}."
    )
    if too_long == "error":
        raise ValueError(
            f'{message} Raise max_length, reduce max_pixels, or leave these records out with too_long="drop".'
        )
    if not kept:
        raise ValueError(f"{message} None is left to train on. Raise max_length or reduce max_pixels.")
    logger.warning(f"{message} They are left out (too_long={too_long!r}).")
    return [records[index] for index in kept], lengths


def check_rollout_lengths(
    name: str,
    records: Sequence[DetectionRecord],
    prompts: PromptBuilder,
    max_length: int,
    max_completion_length: int,
) -> int:
    """
    Args:
        name (`str`):
            Name of the dataset argument, for messages.
        records (`Sequence[DetectionRecord]`):
            Records that are rolled out.
        prompts ([`PromptBuilder`]):
            Gives the prompt lengths.
        max_length (`int`):
            Most tokens of prompt and rollout.
        max_completion_length (`int`):
            Most tokens of a rollout.

    Returns:
        `int`: Tokens of the longest prompt and rollout together.

    Raises:
        `ValueError`: If the longest prompt leaves no room for the longest rollout.
    """
    prompt_lengths = prompts.lengths([(record.width, record.height) for record in records])
    longest = max(range(len(records)), key=prompt_lengths.__getitem__)
    if prompt_lengths[longest] + max_completion_length > max_length:
        raise ValueError(
            f"max_length={max_length} is too short for the rollouts of {name}: the prompt of {records[longest].place} "
            f"takes {prompt_lengths[longest]} tokens and max_completion_length={max_completion_length}. Reduce "
            "max_pixels or max_completion_length, or raise max_length."
        )
    return prompt_lengths[longest] + max_completion_length


def warn_of_cut_rollouts(lengths: Sequence[tuple[int, int]], max_completion_length: int) -> None:
    """Warns of training records (lengths from [`fit_records`]) whose rollouts can never be complete."""
    cut = sum(length > max_completion_length for _, length in lengths)
    if cut:
        logger.warning(
            f"{cut} of {len(lengths)} records of train_dataset have a ground truth longer than "
            f"max_completion_length={max_completion_length}: their rollouts will always be cut."
        )

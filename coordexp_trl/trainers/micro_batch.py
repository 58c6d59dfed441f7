# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The unit of one forward and backward, cut from a generation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from trl.trainer.utils import pad

from coordexp_trl.generation import ImageFeatures, Prompt, feature_placeholders
from coordexp_trl.losses.terms import UNITS, Supervision, count_units
from coordexp_trl.sequences import TrainingSequence


def collate_tokens(
    prompts: Sequence[Prompt], sequences: Sequence[TrainingSequence], pad_token_id: int, image_token_id: int
) -> dict[str, torch.Tensor]:
    """
    Args:
        prompts (`Sequence[Prompt]`):
            Prompt of each sequence.
        sequences (`Sequence[TrainingSequence]`):
            Sequences.
        pad_token_id (`int`):
            Padding token.
        image_token_id (`int`):
            Image placeholder; a completion never holds one, so all of them are the prompts'.

    Returns:
        `dict[str, torch.Tensor]`: Right-padded model inputs without `pixel_values`.
    """
    ids = [torch.tensor(prompt.ids + sequence.ids) for prompt, sequence in zip(prompts, sequences, strict=True)]
    input_ids = pad(ids, padding_value=pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": pad([torch.ones_like(row) for row in ids], padding_value=0),
        "mm_token_type_ids": (input_ids == image_token_id).int(),
        "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in prompts]),
    }


@dataclass
class MicroBatch:
    """
    Sequences of a few images. Images are held once; sequences refer to them by index.

    Attributes:
        prompts (`list[Prompt]`):
            Processed images.
        features ([`ImageFeatures`], *optional*):
            Their vision features, when the tower is frozen.
        sequences (`list[TrainingSequence]`):
            Sequences of these images.
        image_of_sequence (`list[int]`):
            Index into `prompts` of each sequence.
        units (`dict[str, float]`):
            Units of each kind in the whole optimizer step, over all processes; at least 1.
    """

    prompts: list[Prompt]
    features: ImageFeatures | None
    sequences: list[TrainingSequence]
    image_of_sequence: list[int]
    units: dict[str, float]

    def collate(self, pad_token_id: int, image_token_id: int) -> tuple[dict[str, torch.Tensor], Supervision]:
        """
        Args:
            pad_token_id (`int`):
                Padding token.
            image_token_id (`int`):
                Image placeholder.

        Returns:
            `tuple[dict[str, torch.Tensor], Supervision]`: Right-padded model inputs, whose `pixel_values` refer to
            served [`ImageFeatures`], and the targets.
        """
        prompts = [self.prompts[k] for k in self.image_of_sequence]
        inputs = collate_tokens(prompts, self.sequences, pad_token_id, image_token_id)
        inputs["pixel_values"] = feature_placeholders(prompts, self.image_of_sequence)
        lengths = [len(prompt.ids) for prompt in prompts]
        return inputs, Supervision.collate(self.sequences, lengths, inputs["input_ids"].size(1))


def split_generation(
    prompts: Sequence[Prompt],
    features: ImageFeatures | None,
    sequences: Sequence[list[TrainingSequence]],
    images_per_batch: int,
    batches_per_step: int,
    accelerator: Accelerator,
) -> list[MicroBatch]:
    """
    Cuts a generation into micro-batches, and counts the units of each optimizer step over all processes.

    Args:
        prompts (`Sequence[Prompt]`):
            Processed images of the generation.
        features ([`ImageFeatures`], *optional*):
            Their vision features.
        sequences (`Sequence[list[TrainingSequence]]`):
            Sequences of each image.
        images_per_batch (`int`):
            Images of one micro-batch.
        batches_per_step (`int`):
            Micro-batches of one optimizer step.
        accelerator ([`~accelerate.Accelerator`]):
            Sums the counts over processes; every process must call.

    Returns:
        `list[MicroBatch]`: The micro-batches, in order.
    """
    slices = [range(start, start + images_per_batch) for start in range(0, len(prompts), images_per_batch)]
    of_batch = [[item for k in images for item in sequences[k]] for images in slices]
    counts = torch.tensor([count_units(items) for items in of_batch], device=accelerator.device)
    per_step = counts.view(-1, batches_per_step, len(UNITS)).sum(1)
    totals = accelerator.reduce(per_step, reduction="sum").clamp(min=1).tolist()
    return [
        MicroBatch(
            prompts=[prompts[k] for k in images],
            features=None if features is None else features.select(images),
            sequences=of_batch[number],
            image_of_sequence=[place for place, k in enumerate(images) for _ in sequences[k]],
            units=dict(zip(UNITS, totals[number // batches_per_step], strict=True)),
        )
        for number, images in enumerate(slices)
    ]

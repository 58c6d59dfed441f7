# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Records → supervised batches of their own ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.images import load_image
from coordexp_trl.losses.terms import Supervision, count_units
from coordexp_trl.records import DetectionRecord
from coordexp_trl.sequences import SequenceBuilder, ground_truth
from coordexp_trl.trainers.data import Sample
from coordexp_trl.trainers.micro_batch import collate_tokens

IGNORED = -100  # label without loss


@dataclass
class GroundTruthCollator:
    """
    Decodes images and writes ground truth in the data-loader workers.

    Args:
        records (`Sequence[DetectionRecord]`):
            Training records.
        prompt_builder ([`PromptBuilder`]):
            Makes the prompts.
        sequence_builder ([`SequenceBuilder`]):
            Writes the ground truth.
        grid ([`CoordinateGrid`]):
            Coordinate grid.
        order (`str`):
            `"sorted"`, `"random"` or `"as_is"`, see [`ground_truth`].
        seed (`int`):
            Seed of the random order, which depends on nothing but (seed, epoch, index).
        pad_token_id (`int`):
            Padding token.
        image_token_id (`int`):
            Image placeholder.
        geometry (`str`, *optional*, defaults to `"box"`):
            `"box"` or `"native"`, see [`ground_truth`].
    """

    records: Sequence[DetectionRecord]
    prompt_builder: PromptBuilder
    sequence_builder: SequenceBuilder
    grid: CoordinateGrid
    order: str
    seed: int
    pad_token_id: int
    image_token_id: int
    geometry: str = "box"
    # Shared memory, which workers that live longer than an epoch see change
    epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long).share_memory_())

    def __call__(self, examples: list[dict[str, Any]] | list[Sample]) -> dict[str, Any] | list[Sample]:
        """
        Args:
            examples (`list`):
                Rows with the `index` of a training record; or samples of an evaluation set, returned as they are.

        Returns:
            `dict[str, Any]`: Right-padded model inputs with `labels` (as TRL's own collator makes them, prompt and
            padding ignored), `supervision` ([`Supervision`]) and `counts`: units of each kind, and tokens.
        """
        if isinstance(examples[0], Sample):
            return examples
        indices = [example["index"] for example in examples]
        records = [self.records[index] for index in indices]
        images = [load_image(record) for record in records]
        prompts = self.prompt_builder(images, [record.prompt for record in records])
        sequences = [
            self.sequence_builder.write(
                ground_truth(record, self.grid, self.order, f"{self.seed}-{self.epoch.item()}-{index}", self.geometry)
            )
            for record, index in zip(records, indices, strict=True)
        ]
        inputs = collate_tokens(prompts, sequences, self.pad_token_id, self.image_token_id)
        lengths = [len(prompt.ids) for prompt in prompts]
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
        for row, length in enumerate(lengths):
            labels[row, :length] = IGNORED
        return {
            **inputs,
            "pixel_values": torch.cat([prompt.pixel_values for prompt in prompts]),
            "labels": labels,
            "supervision": Supervision.collate(sequences, lengths, labels.size(1)),
            "counts": torch.tensor([*count_units(sequences), int(inputs["attention_mask"].sum())]),
        }

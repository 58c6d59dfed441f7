# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""All loss terms of a batch of training sequences, as sums over their own units.

A term's mean is taken over its units in the whole optimizer step (all micro-batches, all ranks), so the sums here are
divided by counts that the trainer gathers; this is what makes 1 × 8 and 8 × 1 micro-batches give the same gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from coordexp_trl.losses import coordinate, geometry
from coordexp_trl.losses.head import HeadOutput, supervised_logits
from coordexp_trl.sequences import TrainingSequence

UNITS = ("text", "slots", "boxes")
# Figures without gradient, averaged over slots.
DIAGNOSTICS = ("coord_bin_error", "coord_entropy", "coord_mass")


@dataclass(frozen=True)
class LossConfig:
    """
    Weights and shapes of the loss terms at one optimizer step.

    Args:
        weights (`dict[str, float]`):
            Weight of each term of [`TERMS`]; a missing or zero weight switches the term off.
        sigma (`float`, *optional*, defaults to `2.0`):
            Width of the soft target, in bins.
        temperature (`float`, *optional*, defaults to `1.0`):
            Softmax temperature of the expectation.
        top_k (`int`, *optional*):
            Number of likeliest bins in the expectation; all by default.
        iou_loss (`str`, *optional*, defaults to `"giou"`):
            `"giou"` or `"ciou"`.
    """

    weights: dict[str, float]
    sigma: float = 2.0
    temperature: float = 1.0
    top_k: int | None = None
    iou_loss: str = "giou"

    @property
    def active(self) -> list[str]:
        """Names of the terms with a weight."""
        return [name for name in TERMS if self.weights.get(name)]


@dataclass
class Supervision:
    """
    The targets of a batch of sequences, as tensors. `*_rows` index the flattened hidden states
    `(batch · length, hidden_size)`.

    Attributes:
        text_rows, text_tokens, text_weights (`torch.Tensor`):
            Shape `(T,)`.
        slot_rows, slot_bins, slot_weights (`torch.Tensor`):
            Shape `(M,)`.
        box_slots (`torch.Tensor`):
            Index among the M slots of each box's coordinates, shape `(B, 4)`.
        boxes (`torch.Tensor`):
            Target boxes, xyxy in [0, 1], shape `(B, 4)`.
        box_weights (`torch.Tensor`):
            Shape `(B,)`.
    """

    text_rows: torch.Tensor
    text_tokens: torch.Tensor
    text_weights: torch.Tensor
    slot_rows: torch.Tensor
    slot_bins: torch.Tensor
    slot_weights: torch.Tensor
    box_slots: torch.Tensor
    boxes: torch.Tensor
    box_weights: torch.Tensor

    @classmethod
    def collate(
        cls, sequences: Sequence[TrainingSequence], prompt_lengths: Sequence[int], length: int
    ) -> "Supervision":
        """
        Args:
            sequences (`Sequence[TrainingSequence]`):
                Sequences, in batch order.
            prompt_lengths (`Sequence[int]`):
                Number of prompt tokens before each sequence (right padding).
            length (`int`):
                Padded length of the batch.

        Returns:
            [`Supervision`]: On the CPU.
        """
        text, slots, boxes = [], [], []
        for row, (sequence, prompt_length) in enumerate(zip(sequences, prompt_lengths, strict=True)):
            start = row * length + prompt_length - 1  # hidden state that predicts completion token 0
            text += [(start + target.position, target.token, target.weight) for target in sequence.text]
            slot_index = {target.position: len(slots) + k for k, target in enumerate(sequence.slots)}
            slots += [(start + target.position, target.bin, target.weight) for target in sequence.slots]
            boxes += [([slot_index[slot] for slot in box.slots], box.box, box.weight) for box in sequence.boxes]

        def columns(rows, dtypes):
            values = list(zip(*rows, strict=True)) if rows else [()] * len(dtypes)
            return [torch.tensor(column, dtype=dtype) for column, dtype in zip(values, dtypes, strict=True)]

        indexed = (torch.long, torch.long, torch.float32)
        box_slots, box_targets, box_weights = columns(boxes, (torch.long, torch.float32, torch.float32))
        return cls(
            *columns(text, indexed),
            *columns(slots, indexed),
            box_slots.reshape(-1, 4),
            box_targets.reshape(-1, 4),
            box_weights,
        )

    def to(self, device: torch.device) -> "Supervision":
        """Returns a copy on `device`."""
        return Supervision(*(getattr(self, item.name).to(device) for item in fields(self)))

    def weights(self, unit: str) -> torch.Tensor:
        """The weight of each text token, slot or box."""
        return {"text": self.text_weights, "slots": self.slot_weights, "boxes": self.box_weights}[unit]


@dataclass
class Predictions:
    """
    What the model predicts at the supervised positions, for the terms to compare with the targets.

    Args:
        head ([`~coordexp_trl.losses.head.HeadOutput`]):
            Output of the head: `text_nll` of shape `(T,)`, `coord_logits` of shape `(M, K)`, and `coord_gate` of shape
            `(M,)`, which is 0 unless the term `coord_gate` has a weight.
        targets ([`Supervision`]):
            The targets.
        config ([`LossConfig`]):
            Shapes of the terms.
    """

    head: HeadOutput
    targets: Supervision
    config: LossConfig

    @cached_property
    def log_probs(self) -> torch.Tensor:
        """Log-probabilities among the coordinate tokens, shape `(M, K)`."""
        return self.head.coord_logits.log_softmax(-1)

    @cached_property
    def soft_targets(self) -> torch.Tensor:
        """Gaussians around the target bins, shape `(M, K)`."""
        return coordinate.gaussian_targets(self.targets.slot_bins, self.log_probs.size(-1), self.config.sigma)

    @cached_property
    def expected(self) -> torch.Tensor:
        """Expectation of each slot in [0, 1], shape `(M,)`."""
        return coordinate.expectation(self.head.coord_logits, self.config.temperature, self.config.top_k)

    @cached_property
    def boxes(self) -> torch.Tensor:
        """Expectation boxes, xyxy in [0, 1], shape `(B, 4)`."""
        return self.expected[self.targets.box_slots]


class LossTerm(NamedTuple):
    """
    A loss term.

    Args:
        unit (`str`):
            What it is averaged over, one of [`UNITS`].
        values (`Callable[[Predictions], torch.Tensor]`):
            Its value for each unit, not multiplied by the unit's weight: shape `(T,)`, `(M,)` or `(B,)`.
    """

    unit: str
    values: Callable[[Predictions], torch.Tensor]


def _iou_loss(at: Predictions) -> torch.Tensor:
    return {"giou": geometry.giou_loss, "ciou": geometry.ciou_loss}[at.config.iou_loss](at.boxes, at.targets.boxes)


# Every term by the name under which it is weighted and logged. A new one needs an entry here and a weight in the
# trainer configuration's `loss_config`.
TERMS: dict[str, LossTerm] = {
    "text": LossTerm("text", lambda at: at.head.text_nll),
    "coord_ce": LossTerm("slots", lambda at: coordinate.hard_cross_entropy(at.log_probs, at.targets.slot_bins)),
    "coord_soft_ce": LossTerm("slots", lambda at: coordinate.soft_cross_entropy(at.log_probs, at.soft_targets)),
    "coord_w1": LossTerm("slots", lambda at: coordinate.wasserstein1(at.log_probs.exp(), at.soft_targets)),
    "coord_gate": LossTerm("slots", lambda at: at.head.coord_gate),
    "coord_entropy": LossTerm("slots", lambda at: coordinate.entropy(at.log_probs)),
    "bbox_l1": LossTerm("boxes", lambda at: geometry.l1_loss(at.boxes, at.targets.boxes)),
    "bbox_iou": LossTerm("boxes", _iou_loss),
}


def count_units(sequences: Sequence[TrainingSequence]) -> list[int]:
    """
    Args:
        sequences (`Sequence[TrainingSequence]`):
            Any number of sequences.

    Returns:
        `list[int]`: Number of weighted text tokens, slots and boxes, in the order of [`UNITS`].
    """
    return [sum(target.weight > 0 for sequence in sequences for target in getattr(sequence, unit)) for unit in UNITS]


def loss_terms(
    hidden: torch.Tensor, head: nn.Module, coord_ids: torch.Tensor, supervision: Supervision, config: LossConfig
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """
    Args:
        hidden (`torch.Tensor`):
            Last hidden states of shape `(batch, length, hidden_size)`.
        head (`nn.Module`):
            Output embeddings of the model.
        coord_ids (`torch.Tensor`):
            Token id of each bin, shape `(K,)`.
        supervision ([`Supervision`]):
            Targets on the device of `hidden`.
        config ([`LossConfig`]):
            Weights and shapes.

    Returns:
        `tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]`: Weighted-by-target sums of the active terms
        (float32 scalars, connected to the graph even when nothing is supervised), and sums of the diagnostics.
    """
    rows = torch.cat([supervision.text_rows, supervision.slot_rows])
    with_gate = "coord_gate" in config.active
    output = supervised_logits(hidden.flatten(0, 1)[rows], head, supervision.text_tokens, coord_ids, with_gate)
    at = Predictions(output, supervision, config)
    sums = {name: (TERMS[name].values(at) * supervision.weights(TERMS[name].unit)).sum() for name in config.active}
    with torch.no_grad():
        supervised = (supervision.slot_weights > 0).float()
        last = len(coord_ids) - 1
        error = (at.expected - supervision.slot_bins / last).abs() * last
        diagnostics = {
            "coord_bin_error": (error * supervised).sum(),
            "coord_entropy": (coordinate.entropy(at.log_probs) * supervised).sum(),
        }
        if with_gate:  # without it the full vocabulary is skipped, and the mass is not known
            diagnostics["coord_mass"] = ((-output.coord_gate).exp() * supervised).sum()
    return sums, diagnostics

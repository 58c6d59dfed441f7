# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The loss of Stage-1 as an external plugin of ms-swift 4.6:

    swift sft --external_plugins recipes/ms_swift/plugin.py --loss_type coordexp --model DIR --dataset FILE.jsonl …

The data come from `coordexp data export ms-swift --model DIR`, see docs/ms-swift.md.
"""

import math
import os
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from swift.loss.base import BaseLoss
from swift.loss.mapping import loss_map

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.losses import coordinate

IGNORED = -100  # label without loss


@dataclass(frozen=True)
class CoordExpOptions:
    """
    Options of Stage-1 with their names and defaults there. The environment may set them: `COORD_GATE_WEIGHT=0.5`.
    """

    coord_ce_weight: float = 1.0
    coord_soft_ce_weight: float = 1.0
    coord_w1_weight: float = 0.0
    coord_gate_weight: float = 1.0
    coord_entropy_weight: float = 0.0
    coord_sigma: float = 2.0

    @classmethod
    def from_environment(cls) -> "CoordExpOptions":
        """Reads the variables named like the options, in capitals; an error names the one that is no such number."""
        values = {}
        for item in fields(cls):
            given = os.environ.get(item.name.upper(), item.default)
            try:
                values[item.name] = float(given)
            except ValueError:
                values[item.name] = math.nan
            if not 0 <= values[item.name] < math.inf:
                raise ValueError(f"{item.name.upper()}={given!r}: must be a finite number, 0 or greater.")
        return cls(**values)


class CoordExpLoss(BaseLoss):
    """
    Cross-entropy of text labels, averaged over them, and the coordinate terms at labels that are coordinate tokens,
    averaged over these. Both averages go over the whole optimizer step, all micro-batches and processes.

    ms-swift gives its own count of labels alone, so the loss counts its two kinds where the trainer collects the
    micro-batches of a step.
    """

    def __init__(self, args, trainer):
        super().__init__(args, trainer)
        if self.is_megatron or trainer.template.sequence_parallel_size > 1:
            raise ValueError(
                "loss_type coordexp needs the logits of whole sequences: no sequence parallelism, no Megatron."
            )
        tokenizer = trainer.template.tokenizer
        self.options = CoordExpOptions.from_environment()
        self.coord_ids = CoordVocabulary.from_tokenizer(tokenizer).ids
        self.bin_of = torch.full([max(len(tokenizer), int(self.coord_ids.max()) + 1)], -1)  # -1 for text
        self.bin_of[self.coord_ids] = torch.arange(len(self.coord_ids))
        self.units = None
        self._get_batch_samples, trainer.get_batch_samples = trainer.get_batch_samples, self.get_batch_samples

    def get_batch_samples(self, *args, **kwargs):
        """Stands in for the trainer's method of this name, and counts the units of the step it begins."""
        batches, num_items_in_batch = self._get_batch_samples(*args, **kwargs)
        self.units = self.count([batch["labels"] for batch in batches])
        return batches, num_items_in_batch

    def count(self, labels: list[torch.Tensor]) -> torch.Tensor:
        """Numbers of text labels and of coordinate labels, at least 1, over all processes where ms-swift counts so."""
        units = torch.zeros(2, device=self.trainer.accelerator.device)
        for batch in labels:
            text, bins = self.split(batch[..., 1:])
            units += torch.stack([text.sum(), (bins >= 0).sum()]).to(units)
        if self.args.average_tokens_across_devices:  # then ms-swift multiplies the loss by the number of processes
            units = self.trainer.accelerator.reduce(units, reduction="sum")
        return units.clamp(min=1)

    def split(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where labels are text, and the bins of labels, -1 where they are none."""
        self.bin_of = self.bin_of.to(labels.device)
        bins = self.bin_of[labels.clamp(min=0)].masked_fill(labels == IGNORED, -1)
        return (labels != IGNORED) & (bins < 0), bins

    def __call__(self, outputs, labels, *, num_items_in_batch=None, loss_scale=None, **kwargs) -> torch.Tensor:
        if loss_scale is not None:
            raise ValueError("loss_type coordexp has weights of its own. Leave --loss_scale at its default.")
        training = self.trainer.model.training
        num_text, num_slots = self.units if training else self.count([labels])
        logits = outputs.logits[:, :-1].flatten(0, 1)  # each position predicts the label after it
        labels = labels[:, 1:].flatten().to(logits.device)
        text, bins = self.split(labels)
        values = {"text": F.cross_entropy(logits[text].float(), labels[text], reduction="none")}
        values |= self.coordinate_terms(logits[bins >= 0].float(), bins[bins >= 0])
        loss = values["text"].sum() / num_text
        for name, metric in values.items():
            if name != "text":
                loss = loss + getattr(self.options, f"{name}_weight") * metric.sum() / num_slots
            self.trainer.custom_metrics["train" if training else "eval"][f"loss/{name}"].update(metric.detach())
        return loss

    def coordinate_terms(self, logits: torch.Tensor, bins: torch.Tensor) -> dict[str, torch.Tensor]:
        """Terms with a weight at each slot, of the logits over the vocabulary `(slots, vocabulary)` and the bins."""
        coord_logits = logits[:, self.coord_ids.to(logits.device)]
        log_probs = coord_logits.log_softmax(-1)
        targets = coordinate.gaussian_targets(bins, log_probs.size(-1), self.options.coord_sigma)
        terms = {
            "coord_ce": lambda: coordinate.hard_cross_entropy(log_probs, bins),
            "coord_soft_ce": lambda: coordinate.soft_cross_entropy(log_probs, targets),
            "coord_w1": lambda: coordinate.wasserstein1(log_probs.exp(), targets),
            "coord_gate": lambda: logits.logsumexp(-1) - coord_logits.logsumexp(-1),
            "coord_entropy": lambda: coordinate.entropy(log_probs),
        }
        return {name: term() for name, term in terms.items() if getattr(self.options, f"{name}_weight")}


loss_map["coordexp"] = CoordExpLoss

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Learning rate and weight decay of each part of the model."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from coordexp_trl.models import MODULE_PATTERNS
from coordexp_trl.tables import print_table

OTHER = "other"


class OptimizerGroupsMixin:
    """For a [`~transformers.Trainer`] whose configuration is a [`DetectionConfig`]."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """See [`~transformers.Trainer.create_optimizer`]; each part of the model becomes groups of its own."""
        rates, decays = self.args.learning_rates or {}, self.args.weight_decays or {}
        if self.optimizer is not None:
            if rates or decays:
                raise ValueError(
                    "learning_rates and weight_decays belong to the Trainer's own optimizer, but optimizers were "
                    "given. Set the groups of that optimizer instead."
                )
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        model = self.model if model is None else model
        regroup(optimizer, model, self.get_decay_parameter_names(model), rates, decays)
        if self.is_world_process_zero():
            print_table(group_rows(optimizer), headers=["part", "parameters", "learning rate", "weight decay"])
        return optimizer


def regroup(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    decaying: Collection[str],
    rates: Mapping[str, float],
    decays: Mapping[str, float],
) -> None:
    """
    Splits the groups of an optimizer by the parts of the model, each with its learning rate and weight decay.

    Args:
        optimizer (`torch.optim.Optimizer`):
            Optimizer that has made no step yet.
        model (`torch.nn.Module`):
            The model whose parameters it holds.
        decaying (`Collection[str]`):
            Names of the parameters that weight decay is applied to: neither biases nor norms.
        rates (`Mapping[str, float]`):
            Learning rate of each part that differs from the optimizer's.
        decays (`Mapping[str, float]`):
            Weight decay of each part that differs.

    Raises:
        `ValueError`: If nothing learns in a part that is named.
    """
    decaying = set(decaying)
    kind_of = {id(value): (part_of(name), name in decaying) for name, value in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        kinds: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kinds.setdefault(kind_of[id(parameter)], []).append(parameter)
        for (part, decays_here), parameters in kinds.items():
            own = {**group, "params": parameters, "part": part, "lr": rates.get(part, group["lr"])}
            if decays_here and part in decays:
                own["weight_decay"] = decays[part]
            groups.append(own)
    learning = dict.fromkeys(group["part"] for group in groups)
    for option, values in (("learning_rates", rates), ("weight_decays", decays)):
        for part in values:
            if part not in learning:
                raise ValueError(
                    f"{option}: nothing learns in the part {part!r}; what learns is in {', '.join(learning)}. Leave "
                    "it out, or let it learn: rows of coordinate tokens with coord_rows (a tied head has those of the "
                    "embedding), parts of the model unless `freeze` names them."
                )
    optimizer.param_groups = groups


def part_of(name: str) -> str:
    """Returns the part of the model that a parameter belongs to, by its name."""
    return next((part for part, pattern in MODULE_PATTERNS.items() if re.search(pattern, name)), OTHER)


def group_rows(optimizer: torch.optim.Optimizer) -> list[tuple[str, str, float, float]]:
    """Returns part, number of parameters, learning rate and weight decay of each group."""
    return [
        (group["part"], f"{sum(map(torch.numel, group['params'])):,}", group["lr"], group.get("weight_decay", 0.0))
        for group in optimizer.param_groups
    ]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The parts of a vision-language model that the trainers address: backbone, head, vision tower, projector."""

import re
from collections.abc import Sequence

from accelerate.utils import is_peft_model
from torch import nn
from transformers import PreTrainedModel

# Parameter-name patterns of the parts that users freeze, for Qwen2-VL, Qwen2.5-VL, Qwen3-VL and their relatives; a
# family with other names adds its own. No parameter belongs to two parts.
MODULE_PATTERNS = {
    "vision_tower": r"(^|\.)visual\.(?!merger|deepstack_merger_list)",
    "projector": r"(^|\.)visual\.(merger|deepstack_merger_list)\.",
    "language_model": r"(^|\.)(language_model\.|lm_head\.)(?!.*trainable_tokens_delta)",
    "coord_embed_rows": r"(?<!lm_head)(?<!lm_head\.token_adapter)\.trainable_tokens_delta\.",
    "coord_head_rows": r"(^|\.)lm_head(\.token_adapter)?\.trainable_tokens_delta\.",
}


def without_adapters(model: nn.Module) -> PreTrainedModel:
    """Returns the model inside a [`~peft.PeftModel`] (its layers stay adapted), or `model` itself."""
    return model.get_base_model() if is_peft_model(model) else model


def backbone(model: nn.Module) -> nn.Module:
    """Returns the multimodal model without its head, such as [`~transformers.Qwen3VLModel`]."""
    return without_adapters(model).base_model


def vision_is_frozen(model: nn.Module) -> bool:
    """
    Whether nothing learns in the modules that turn pixels into image features.

    Args:
        model (`nn.Module`):
            Model, with or without adapters.

    Returns:
        `bool`: whether vision tower and projector are frozen.

    Raises:
        `ValueError`: If no parameter is recognised as one of theirs.
    """
    patterns = [re.compile(MODULE_PATTERNS[part]) for part in ("vision_tower", "projector")]
    vision = [
        parameter for name, parameter in model.named_parameters() if any(pattern.search(name) for pattern in patterns)
    ]
    if not vision:
        raise ValueError(
            f"{type(without_adapters(model)).__name__}: no parameter is named as those of a vision tower or projector "
            "are. Add the names of this family to coordexp_trl.models.MODULE_PATTERNS."
        )
    return not any(parameter.requires_grad for parameter in vision)


def freeze_modules(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """
    Stops the gradient of the named parts.

    Args:
        model (`nn.Module`):
            Model, with or without adapters.
        names (`Sequence[str]`):
            Parts of `MODULE_PATTERNS`, or regular expressions searched in parameter names.

    Returns:
        `dict[str, int]`: Number of parameters each name stopped.

    Raises:
        `ValueError`: If a name matches no parameter, or nothing is left to train.
    """
    stopped = {}
    parameters = dict(model.named_parameters())
    for name in names:
        try:
            pattern = re.compile(MODULE_PATTERNS.get(name, name))
        except re.error as error:
            raise ValueError(f"freeze={name!r} is not a valid regular expression: {error}.") from error
        matched = [parameter for key, parameter in parameters.items() if pattern.search(key)]
        if not matched:
            raise ValueError(
                f"freeze={name!r} matches no parameter. Use one of {sorted(MODULE_PATTERNS)} or a regular expression "
                f"searched in names such as {next(iter(parameters))!r}."
            )
        for parameter in matched:
            parameter.requires_grad_(False)
        stopped[name] = sum(parameter.numel() for parameter in matched)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze={list(names)} leaves no parameter to train.")
    return stopped

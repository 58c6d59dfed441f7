# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Trained rows: of embedding and head only the rows of the coordinate tokens learn.

They are PEFT's trainable tokens, alone or beside LoRA, and are saved in the adapter as PEFT saves them. PEFT writes
the rows into a copy of the whole matrix at every call, and its backward pass makes a gradient of that size; here the
rows are looked up, or multiplied, on their own.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled


def with_token_rows(peft_config: PeftConfig | None, model: PreTrainedModel, token_ids: Sequence[int]) -> PeftConfig:
    """
    Args:
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to train beside the rows; none trains the rows alone.
        model ([`~transformers.PreTrainedModel`]):
            Model that will be adapted.
        token_ids (`Sequence[int]`):
            Tokens whose rows shall learn.

    Returns:
        [`~peft.PeftConfig`]: A copy that trains these rows of the embedding, and those of the head unless it is tied.

    Raises:
        `ValueError`: If the adapters cannot train rows, or rows of other tokens are to be trained.
    """
    rows = {name: list(token_ids) for name in _matrices(model)}
    if peft_config is None:
        # PEFT's TrainableTokensConfig makes the head a tuner layer, which TRL's SFTTrainer refuses
        return LoraConfig(target_modules=DUMMY_TARGET_MODULES, trainable_token_indices=rows)
    if not isinstance(peft_config, LoraConfig):
        raise ValueError(
            f"coord_rows=True goes with LoRA, or without peft_config, not with {type(peft_config).__name__}. Use "
            "LoraConfig, or leave coord_rows False."
        )
    if peft_config.trainable_token_indices not in (None, rows):
        raise ValueError(
            "coord_rows=True sets trainable_token_indices of the LoRA configuration, which names other rows already. "
            "Leave one of the two out."
        )
    peft_config = copy.copy(peft_config)
    peft_config.trainable_token_indices = rows
    return peft_config


def check_token_rows(model: PeftModel, token_ids: Sequence[int]) -> None:
    """
    Raises:
        `ValueError`: Unless the active adapter trains the rows of exactly these tokens.
    """
    layers = token_row_layers(model)
    wanted = sorted(token_ids)
    for layer in layers:
        for adapter in layer.active_adapters:
            if sorted(layer.token_indices[adapter]) != wanted:
                raise ValueError(
                    f"coord_rows=True, but the adapter trains {len(layer.token_indices[adapter])} other rows than "
                    f"those of the {len(wanted)} coordinate tokens. Leave coord_rows False to go on with it as it is."
                )
    if not layers:
        raise ValueError(
            "coord_rows=True, but the adapter has no rows of tokens. Leave coord_rows False to go on with it, or "
            "merge it with `coordexp merge` and train a new one."
        )


def token_row_layers(model: nn.Module) -> list[TrainableTokensLayer]:
    """Returns the layers of trained rows: of the embedding, and of a head that is adapted or tied to it."""
    return [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]


def use_row_lookup(model: nn.Module) -> None:
    """Makes the layers of trained rows touch these rows only, see [`RowLookup`]; what they save stays the same."""
    for layer in token_row_layers(model):
        layer.__class__ = RowLookup
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper):
            module.__class__ = _RowWrapper


class _RowWrapper(TrainableTokensWrapper):
    bias = None  # TRL's plain SFT asks the head for it, and PEFT's wrapper has neither bias nor attribute


class RowLookup(TrainableTokensLayer):
    """
    PEFT's [`~peft.tuners.trainable_tokens.layer.TrainableTokensLayer`] without the copy of the whole matrix: the
    frozen layer is called, and what concerns a trained row is put in its place.

    Where that would not be the same (several adapters at once, a matrix that learns, scaled embeddings, a trained
    padding token, ZeRO-3) it is PEFT's own.
    """

    def forward_adapters(self, x: torch.Tensor, active_adapters: Sequence[str], *args, **kwargs) -> torch.Tensor:
        """See [`~peft.tuners.trainable_tokens.layer.TrainableTokensLayer`]."""
        base = self.base_layer
        is_lookup = type(base) is nn.Embedding and base.max_norm is None
        if (
            self.disable_adapters
            or self.merged
            or len(active_adapters) != 1
            or not (is_lookup or type(base) is nn.Linear)
            or (is_lookup and base.padding_idx in self.token_indices[active_adapters[0]])
            or base.weight.requires_grad
            or is_deepspeed_zero3_enabled()
        ):
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        (adapter,) = active_adapters
        rows = self.trainable_tokens_delta[adapter].to(base.weight.dtype)
        if is_lookup:
            position = self._positions(adapter, x.device)[x]
            trained = F.embedding(position.clamp(min=0), rows)
            return torch.where((position >= 0)[..., None], trained, base(x))
        # PEFT's layer ignores the bias of a linear layer
        logits = F.linear(x, base.weight)
        return logits.index_copy_(-1, self._ids(adapter, x.device), F.linear(x, rows))

    def _ids(self, adapter: str, device: torch.device) -> torch.Tensor:
        return self._cached("_row_ids", adapter, device, lambda: torch.tensor(self.token_indices[adapter]))

    def _positions(self, adapter: str, device: torch.device) -> torch.Tensor:
        """Which trained row belongs to each token, -1 for none; shape `(vocabulary,)`."""

        def build() -> torch.Tensor:
            ids = torch.tensor(self.token_indices[adapter])
            return torch.full((self.base_layer.num_embeddings,), -1).index_copy_(0, ids, torch.arange(len(ids)))

        return self._cached("_row_positions", adapter, device, build)

    def _cached(self, name: str, adapter: str, device: torch.device, build) -> torch.Tensor:
        cache = self.__dict__.setdefault(name, {})
        key = (adapter, device)
        if key not in cache:
            cache[key] = build().to(device)
        return cache[key]


def _matrices(model: PreTrainedModel) -> list[str]:
    """Names, as PEFT matches them, of the embedding and of a head that is not tied to it."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)].rpartition(".")[2] for module in modules]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Does a merged checkpoint compute what its base and adapter do? One model is in memory at a time."""

import gc
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, PreTrainedModel

from coordexp_trl.adapters.rows import token_row_layers
from coordexp_trl.checkpoints import load_processor
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.generation import Prompt, PromptBuilder

# Of the largest logit. Measured on random deep models: 6e-6, 0.012 and 0.085; trained ones amplify rounding less.
BOUNDS = {torch.float32: 1e-5, torch.float16: 0.03, torch.bfloat16: 0.15}
_IMAGE_SIZE = 128
_SAMPLED_ROWS = 64


@dataclass(frozen=True)
class Difference:
    """
    Logits of base and adapter against those of the merged checkpoint.

    Args:
        largest (`float`):
            Largest difference.
        bound (`float`):
            What it may be.
        scale (`float`):
            Largest logit.
        effect (`float`):
            Largest difference that the adapter makes to the base.
        dtype (`torch.dtype`):
            Arithmetic of both.
    """

    largest: float
    bound: float
    scale: float
    effect: float
    dtype: torch.dtype

    def __str__(self) -> str:
        return (
            f"differ by {self.largest:.2g} at most (allowed {self.bound:.2g}, {str(self.dtype).removeprefix('torch.')}"
            f", up to {self.scale:.3g}); the adapter changes them by {self.effect:.2g}"
        )


def compare_logits(base: Path, adapter: Path, merged: Path) -> Difference:
    """
    Args:
        base (`Path`):
            Checkpoint.
        adapter (`Path`):
            Its adapter.
        merged (`Path`):
            The two merged.

    Returns:
        [`Difference`]: of the logits of a prompt with a picture, in the type of the base's weights.

    Raises:
        `ValueError`: If it is too large, or the base has no processor.
    """
    try:
        (prompt,) = PromptBuilder(load_processor(str(base)))([draw_shapes(0, 0, image_size=_IMAGE_SIZE)[0]])
    except (ValueError, OSError) as error:
        raise ValueError(
            f"base: its processor makes no prompt to compare the models with ({error}). Save the processor of the "
            "model there, or leave the comparison out with --no-verify."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT about tied heads
        model = PeftModel.from_pretrained(_load(base), adapter).eval()
        rows = sorted({row for layer in token_row_layers(model) for row in layer.token_indices["default"]})
        ids = prompt.ids + rows[:: max(1, len(rows) // _SAMPLED_ROWS)]
        expected, dtype = _logits(model, prompt, ids), model.dtype
        with model.disable_adapter():
            plain = _logits(model, prompt, ids)
    del model
    gc.collect()
    actual = _logits(_load(merged), prompt, ids)
    largest, scale = (expected - actual).abs().max().item(), expected.abs().max().item()
    bound = BOUNDS.get(dtype, BOUNDS[torch.bfloat16]) * max(scale, 1.0)
    difference = Difference(largest, bound, scale, (expected - plain).abs().max().item(), dtype)
    if not largest <= bound:
        raise ValueError(
            f"out: the merged checkpoint is not what base and adapter are together: logits {difference}. Nothing was "
            "written. Please report it, with the adapter's configuration."
        )
    return difference


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", trust_remote_code=False).eval()


@torch.no_grad()
def _logits(model: PreTrainedModel | PeftModel, prompt: Prompt, ids: list[int]) -> torch.Tensor:
    """Returns the logits of every position, `(length, vocabulary)`."""
    input_ids = torch.tensor([ids])
    return (
        model(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            mm_token_type_ids=(input_ids == model.config.image_token_id).int(),
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            use_cache=False,
        )
        .logits[0]
        .float()
    )

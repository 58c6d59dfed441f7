# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Vision features computed once per image and served to every forward that needs them.

A step runs the same image several times: in the rollout's prefill (once per rollout or beam) and in one or two
teacher-forced sequences. The features are the same each time, and with a frozen tower even across forwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from coordexp_trl.generation.prompts import Prompt


@dataclass
class ImageFeatures:
    """
    Features of a list of images.

    Attributes:
        embeds (`list[torch.Tensor]`):
            Per image, what replaces its placeholders: `(num_tokens, hidden_size)`.
        deepstack (`list[tuple[torch.Tensor, ...]]`):
            Per image, the DeepStack features of each level, `(num_tokens, hidden_size)`; empty tuples for models
            without them.
        output_class (`type`):
            Class of the model's own `get_image_features` output.
    """

    embeds: list[torch.Tensor]
    deepstack: list[tuple[torch.Tensor, ...]]
    output_class: type

    @classmethod
    def encode(cls, backbone: torch.nn.Module, prompts: Sequence[Prompt]) -> "ImageFeatures":
        """
        Runs the vision tower once over all images.

        Args:
            backbone (`torch.nn.Module`):
                Multimodal model without its head, such as [`~transformers.Qwen3VLModel`].
            prompts (`Sequence[Prompt]`):
                Processed images.

        Returns:
            [`ImageFeatures`]: Features in the order of `prompts`, on the model's device.
        """
        device = backbone.device
        output = backbone.get_image_features(
            torch.cat([prompt.pixel_values for prompt in prompts]).to(device),
            torch.cat([prompt.image_grid_thw for prompt in prompts]).to(device),
            return_dict=True,
        )
        embeds = list(output.pooler_output)
        levels = [level.split([len(embed) for embed in embeds]) for level in output.get("deepstack_features") or []]
        deepstack = list(zip(*levels, strict=True)) if levels else [()] * len(embeds)
        return cls(embeds, deepstack, type(output))

    def select(self, indices: Sequence[int]) -> "ImageFeatures":
        """The features of the images at `indices`, without a copy."""
        return ImageFeatures(
            [self.embeds[i] for i in indices], [self.deepstack[i] for i in indices], self.output_class
        )

    @contextmanager
    def serve(self, backbone: torch.nn.Module) -> Iterator[None]:
        """
        While active, `backbone` takes its features from here. The `pixel_values` it is given must come from
        [`feature_placeholders`]: they carry image indices, which survive any repetition by `generate`.

        Args:
            backbone (`torch.nn.Module`):
                The model that [`encode`](ImageFeatures.encode) ran on.
        """

        def get_image_features(pixel_values, image_grid_thw=None, **_: Any):
            starts = image_grid_thw.prod(-1).cumsum(0) - image_grid_thw.prod(-1)
            indices = pixel_values[starts, 0].long().tolist()
            output = self.output_class()
            output.pooler_output = tuple(self.embeds[i] for i in indices)
            if self.deepstack[0]:
                output.deepstack_features = [
                    torch.cat(level) for level in zip(*(self.deepstack[i] for i in indices), strict=True)
                ]
            return output

        assert "get_image_features" not in vars(backbone), "features are being served already"
        backbone.get_image_features = get_image_features
        try:
            yield
        finally:
            del backbone.get_image_features


def feature_placeholders(prompts: Sequence[Prompt], indices: Sequence[int]) -> torch.Tensor:
    """
    Stand-in for `pixel_values` while features are served: each patch row holds its image's index.

    Args:
        prompts (`Sequence[Prompt]`):
            Prompts of the forward, in batch order.
        indices (`Sequence[int]`):
            Index of each prompt's image in the served features.

    Returns:
        `torch.Tensor`: float32 of shape `(num_patches, 1)`.
    """
    counts = torch.tensor([int(prompt.image_grid_thw.prod()) for prompt in prompts])
    return torch.tensor(indices, dtype=torch.float32).repeat_interleave(counts)[:, None]

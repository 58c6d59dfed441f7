# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Image + instruction → prompt token ids and pixel values, once, for generation and training alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

DEFAULT_PROMPT = "Detect every object in the image. Give each one a short description and a bounding box."


@dataclass
class Prompt:
    """
    The processed input of one image.

    Attributes:
        ids (`list[int]`):
            Prompt token ids, image placeholders expanded, generation prompt included.
        pixel_values (`torch.Tensor`):
            Flattened patches of shape `(num_patches, patch_dim)`.
        image_grid_thw (`torch.Tensor`):
            Patch grid (time, height, width) of shape `(1, 3)`.
    """

    ids: list[int]
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor


class PromptBuilder:
    """
    Applies the checkpoint's own chat template and processor.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Processor of the checkpoint.
        prompt (`str`, *optional*):
            Instruction that follows the image.
        system_prompt (`str`, *optional*):
            System message; none by default.
        min_pixels (`int`, *optional*):
            Lower bound of the resized image's area in pixels; the processor's own value by default.
        max_pixels (`int`, *optional*):
            Upper bound of the resized image's area in pixels; the processor's own value by default.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Passed to `apply_chat_template`.

    Raises:
        `ValueError`: If the text does not hold exactly one image placeholder, or the limits exclude each other.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        prompt: str = DEFAULT_PROMPT,
        system_prompt: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ):
        self.processor = processor
        self.system_prompt = system_prompt
        self.chat_template_kwargs = chat_template_kwargs or {}
        self._texts: dict[str | None, str] = {}
        self._texts[None] = self._text(prompt)
        size = processor.image_processor.size
        self.images_kwargs = {
            "min_pixels": min_pixels or size["shortest_edge"],
            "max_pixels": max_pixels or size["longest_edge"],
        }
        if self.images_kwargs["min_pixels"] > self.images_kwargs["max_pixels"]:
            raise ValueError(
                f"min_pixels={self.images_kwargs['min_pixels']} exceeds max_pixels="
                f"{self.images_kwargs['max_pixels']}. Set both so that min_pixels <= max_pixels."
            )

    @property
    def text(self) -> str:
        """The text of a prompt with the common instruction, its image still one placeholder."""
        return self._texts[None]

    def _text(self, instruction: str | None) -> str:
        if instruction in self._texts:
            return self._texts[instruction]
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system_prompt}]})
        text = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self.chat_template_kwargs
        )
        placeholders = text.count(self.processor.image_token)
        if placeholders != 1:
            raise ValueError(
                f"The chat template with prompt={instruction!r} holds {placeholders} image placeholders "
                f"({self.processor.image_token}), need exactly 1. Leave them out of prompt and system_prompt, and use "
                "a chat template that writes images."
            )
        return self._texts.setdefault(instruction, text)

    def __call__(
        self, images: Sequence[Image.Image], instructions: Sequence[str | None] | None = None
    ) -> list[Prompt]:
        """
        Args:
            images (`Sequence[PIL.Image.Image]`):
                RGB images of any sizes.
            instructions (`Sequence[str | None]`, *optional*):
                Instruction of each image where it is not the common one.

        Returns:
            `list[Prompt]`: One prompt an image.
        """
        texts = [self._text(instruction) for instruction in instructions or [None] * len(images)]
        inputs = self.processor(text=texts, images=[[image] for image in images], images_kwargs=self.images_kwargs)
        grids = torch.as_tensor(inputs["image_grid_thw"])
        pixels = torch.as_tensor(inputs["pixel_values"]).split(grids.prod(-1).tolist())
        return [
            Prompt(list(ids), pixel_values, grid[None])
            for ids, pixel_values, grid in zip(inputs["input_ids"], pixels, grids, strict=True)
        ]

    def image(self, prompt: Prompt) -> Image.Image:
        """
        Args:
            prompt ([`Prompt`]):
                A prompt that this builder made.

        Returns:
            `PIL.Image.Image`: Its image as the model sees it, resized. Processed once more, without resizing, it gives
            the same pixel values, so an engine with a processor of its own needs nothing else.
        """
        processor = self.processor.image_processor
        _, height, width = prompt.image_grid_thw[0].tolist()
        merge, patch = processor.merge_size, processor.patch_size
        # The processor's patchify, backwards: (block row, block column, row, column, channel, frame, y, x)
        patches = prompt.pixel_values.reshape(
            height // merge, width // merge, merge, merge, -1, processor.temporal_patch_size, patch, patch
        )[..., 0, :, :]
        pixels = patches.permute(0, 2, 5, 1, 3, 6, 4).reshape(height * patch, width * patch, -1)
        pixels = pixels * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)
        return Image.fromarray((pixels / processor.rescale_factor).round().clamp(0, 255).to(torch.uint8).numpy())

    def lengths(self, sizes: Sequence[tuple[int, int]], instructions: Sequence[str | None] | None = None) -> list[int]:
        """
        Prompt lengths without touching any image.

        Args:
            sizes (`Sequence[tuple[int, int]]`):
                (width, height) of each image, in pixels.
            instructions (`Sequence[str | None]`, *optional*):
                Instruction of each image where it is not the common one.

        Returns:
            `list[int]`: Number of prompt tokens of each image.
        """
        instructions = instructions or [None] * len(sizes)
        # The one placeholder is replaced
        of_text = {
            instruction: len(self.processor.tokenizer(self._text(instruction))["input_ids"]) - 1
            for instruction in set(instructions)
        }
        unique = sorted(set(sizes))
        tokens = self.processor._get_num_multimodal_tokens(
            image_sizes=[(height, width) for width, height in unique], **self.images_kwargs
        ).num_image_tokens
        of_size = dict(zip(unique, tokens, strict=True))
        return [of_text[text] + of_size[size] for text, size in zip(instructions, sizes, strict=True)]


def first_difference(expected: Sequence[int], actual: Sequence[int]) -> int | None:
    """
    Args:
        expected (`Sequence[int]`):
            Token ids.
        actual (`Sequence[int]`):
            Token ids.

    Returns:
        `int` or `None`: Position of the first difference (the shorter length when one is a prefix), or `None`.
    """
    for position, (a, b) in enumerate(zip(expected, actual, strict=False)):
        if a != b:
            return position
    return None if len(expected) == len(actual) else min(len(expected), len(actual))


def check_prompt_ids(trained: Sequence[int], generated: Sequence[int], tokenizer, name: str) -> None:
    """
    Raises unless generation and training saw the same prompt. A difference (an image resized twice, a placeholder
    expanded twice) trains on tokens that the model never saw.

    Args:
        trained (`Sequence[int]`):
            Prompt ids of the training forward.
        generated (`Sequence[int]`):
            Prompt ids that the rollout engine reports.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer, for the message.
        name (`str`):
            What the prompt belongs to, for the message.

    Raises:
        `ValueError`: With the first difference.
    """
    position = first_difference(trained, generated)
    if position is None:
        return
    window = slice(max(position - 3, 0), position + 4)
    raise ValueError(
        f"The rollout engine's prompt for {name} differs from the training prompt at token {position}: lengths "
        f"{len(generated)} and {len(trained)}, {tokenizer.convert_ids_to_tokens(list(generated[window]))} against "
        f"{tokenizer.convert_ids_to_tokens(list(trained[window]))}. Check that the engine uses the same processor, "
        "the same image size limits and expands each image placeholder exactly once."
    )

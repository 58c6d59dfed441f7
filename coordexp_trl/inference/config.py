# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What decides the predictions, beside the model and the images."""

from dataclasses import dataclass

from coordexp_trl.generation import DEFAULT_PROMPT, SamplingConfig
from coordexp_trl.inference.class_prompts import check_classes, class_chunks, class_instruction

DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class InferenceConfig:
    """
    Options of inference.

    Args:
        prompt (`str`, *optional*):
            Instruction that follows the image; the one of training gives the best results. `{classes}` in it stands
            for the list of classes.
        system_prompt (`str`, *optional*):
            System message.
        protocol (`str`, *optional*, defaults to `"tags"`):
            `"tags"` or `"json"`: what the model was trained to write.
        classes (`tuple[str, ...]`, *optional*):
            Descriptions to look for; anything else that the model writes is dropped and counted as `not_asked`. All
            that the model finds by default.
        max_classes_per_prompt (`int`, *optional*):
            Classes named in one prompt; more make several completions for an image, whose objects are joined. By
            default all are named in one.
        max_completion_length (`int`, *optional*, defaults to `1024`):
            Maximum number of new tokens.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature; `0` decodes greedily (or by beams).
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus mass.
        top_k (`int`, *optional*, defaults to `0`):
            Number of candidates; `0` keeps all.
        min_p (`float`, *optional*):
            Smallest probability kept, relative to the likeliest token.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Values above 1 also penalise coordinates that boxes share.
        num_beams (`int`, *optional*, defaults to `1`):
            Beam width. Beams come without probabilities: objects have neither score nor std.
        seed (`int`, *optional*, defaults to `0`):
            Seed of sampling.
        min_pixels (`int`, *optional*):
            Lower bound of the resized image's area in pixels; the processor's own by default.
        max_pixels (`int`, *optional*):
            Upper bound of the resized image's area in pixels; the processor's own by default.
        expectation (`bool`, *optional*, defaults to `False`):
            Whether a coordinate is the mean of its distribution instead of the bin that was written.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the weights: `"auto"` (the checkpoint's; on a CPU float32), `"bfloat16"`, `"float16"` or
            `"float32"`.
        vllm_top_logprobs (`int`, *optional*, defaults to `0`):
            With vLLM: number of likeliest tokens that stand for the distribution of a coordinate; `0` gives no std.

    Raises:
        `ValueError`: if an option is not as described, or two exclude each other.
    """

    prompt: str = DEFAULT_PROMPT
    system_prompt: str | None = None
    protocol: str = "tags"
    classes: tuple[str, ...] | None = None
    max_classes_per_prompt: int | None = None
    max_completion_length: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int = 0
    min_pixels: int | None = None
    max_pixels: int | None = None
    expectation: bool = False
    dtype: str = "auto"
    vllm_top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype = {self.dtype!r}: unknown. Choose one of {', '.join(DTYPES)}.")
        if self.expectation and self.num_beams > 1:
            raise ValueError(
                f"expectation needs the distributions of the coordinates, which beam search (num_beams = "
                f"{self.num_beams}) does not give. Set num_beams to 1, or leave expectation out."
            )
        if self.classes is not None:
            check_classes(self.classes)
        elif self.max_classes_per_prompt is not None or "{classes}" in self.prompt:
            raise ValueError("max_classes_per_prompt, and {classes} in the prompt, need classes. Give them too.")
        if self.max_classes_per_prompt is not None and self.max_classes_per_prompt < 1:
            raise ValueError(f"max_classes_per_prompt = {self.max_classes_per_prompt}: must be at least 1.")
        for name in ("min_pixels", "max_pixels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1.")
        self.sampling(use_vllm=False)  # checks its own options

    @property
    def class_groups(self) -> list[tuple[str, ...] | None]:
        """The classes that each completion of an image is asked for; `[None]` if there are none."""
        return [None] if self.classes is None else class_chunks(self.classes, self.max_classes_per_prompt)

    @property
    def instructions(self) -> list[str]:
        """The text that follows the image, of each completion of an image."""
        return [class_instruction(self.prompt, group) for group in self.class_groups]

    def sampling(self, use_vllm: bool) -> SamplingConfig:
        """Returns the decoding options of an engine."""
        probabilities = self.num_beams == 1
        return SamplingConfig(
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            num_beams=self.num_beams,
            logprobs=probabilities,
            coord_logits=probabilities and (not use_vllm or self.vllm_top_logprobs > 0),
            top_logprobs=self.vllm_top_logprobs,
        )

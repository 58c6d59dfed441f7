# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The interface that every rollout engine implements."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from coordexp_trl.generation.image_features import ImageFeatures
from coordexp_trl.generation.prompts import Prompt
from coordexp_trl.protocols import ParsedCompletion
from coordexp_trl.protocols import Protocol as ObjectProtocol


@dataclass(frozen=True)
class SamplingConfig:
    """
    How completions are decoded.

    Args:
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
            Values above 1 also penalise coordinates that boxes share, and cost precision.
        num_beams (`int`, *optional*, defaults to `1`):
            Beam width; needs `temperature=0`.
        num_generations (`int`, *optional*, defaults to `1`):
            Completions per prompt; more than one needs sampling or as many beams.
        logprobs (`bool`, *optional*, defaults to `False`):
            Whether to return the log-probability of each completion token (of the model, before temperature and
            filters).
        coord_logits (`bool`, *optional*, defaults to `False`):
            Whether to return the logits of the coordinate tokens wherever a coordinate token was written.
        top_logprobs (`int`, *optional*, defaults to `0`):
            With vLLM, which returns no logits: `coord_logits` are made of the log-probabilities of this many likeliest
            tokens, and all other coordinates have probability 0.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Passed to the engine's own configuration; they override the fields above.
    """

    max_completion_length: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    num_generations: int = 1
    logprobs: bool = False
    coord_logits: bool = False
    top_logprobs: int = 0
    generation_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        positive = ("max_completion_length", "num_beams", "num_generations")
        for name, lowest in (*((name, 1) for name in positive), ("top_k", 0), ("top_logprobs", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}.")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}. Use 0 for greedy decoding.")
        if self.temperature > 0 and self.num_beams > 1:
            raise ValueError(
                f"num_beams={self.num_beams} needs temperature=0, got temperature={self.temperature}. Choose either "
                "beam search or sampling."
            )
        if self.temperature == 0 and self.num_generations > self.num_beams:
            raise ValueError(
                f"num_generations={self.num_generations} with temperature=0 would repeat one completion. Set a "
                "temperature above 0, or num_beams to at least num_generations."
            )
        for name in ("num_return_sequences", "eos_token_id", "pad_token_id"):
            if name in self.generation_kwargs:
                raise ValueError(
                    f"generation_kwargs[{name!r}] = {self.generation_kwargs[name]!r} would break the reading of the "
                    "completions. Use num_generations, or the end and padding tokens of the checkpoint."
                )
        if (self.logprobs or self.coord_logits) and self.num_beams > 1:
            raise ValueError(
                f"logprobs and coord_logits are not available with num_beams={self.num_beams}. Set num_beams=1."
            )


@dataclass
class Rollout:
    """
    One completion.

    Attributes:
        prompt_ids (`list[int]`):
            Prompt ids that the engine saw, placeholders expanded.
        completion_ids (`list[int]`):
            New tokens, without the end token and padding.
        finish_reason (`str`):
            `"stop"` (an end token came) or `"length"` (the completion was cut).
        logprobs (`list[float]`, *optional*):
            Log-probability of each completion token.
        coord_logits (`torch.Tensor`, *optional*):
            float32 logits of shape `(number of coordinate tokens in the completion, K)`, in order of appearance.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    finish_reason: str
    logprobs: list[float] | None = None
    coord_logits: torch.Tensor | None = None

    def parse(self, protocol: ObjectProtocol, end_token_id: int) -> ParsedCompletion:
        """
        Args:
            protocol ([`~coordexp_trl.protocols.Protocol`]):
                Protocol of the completion.
            end_token_id (`int`):
                Token that closes a completion which ended by itself; its ids leave it out.

        Returns:
            [`~coordexp_trl.protocols.ParsedCompletion`]: What was written.
        """
        closing = [end_token_id] if self.finish_reason == "stop" else []
        return protocol.parse(self.completion_ids + closing)


class RolloutEngine(Protocol):
    """Generates completions with the current weights of the model being trained."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, features: ImageFeatures | None = None
    ) -> list[Rollout]:
        """
        Args:
            prompts (`Sequence[Prompt]`):
                One prompt an image.
            sampling ([`SamplingConfig`]):
                Decoding options.
            features ([`ImageFeatures`], *optional*):
                Vision features of `prompts`, where the caller has them; an engine with its own copy of the model
                ignores them.

        Returns:
            `list[Rollout]`: `sampling.num_generations` rollouts per prompt, those of one prompt adjacent.
        """
        ...

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollouts with `transformers`' `generate` on the training model itself."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from trl.trainer.utils import pad

from coordexp_trl.generation.base import Rollout, SamplingConfig
from coordexp_trl.generation.image_features import ImageFeatures, feature_placeholders
from coordexp_trl.generation.prompts import Prompt
from coordexp_trl.models import backbone


class _Recorder(LogitsProcessor):
    """
    Keeps, while generating, the log-probability of each chosen token and the coordinate logits at each slot.

    `generate` runs its own processors (suppressed tokens, repetition penalty) before this one, so the raw logits are
    taken by a hook on the head; the choice made from them is known one call later. Only one step of full-vocabulary
    logits is alive at any time.
    """

    def __init__(self, coord_ids: torch.Tensor, keep_coord_logits: bool):
        self.coord_ids = coord_ids
        self.keep_coord_logits = keep_coord_logits
        self.latest: torch.Tensor | None = None
        self.pending: torch.Tensor | None = None
        self.logprobs: list[torch.Tensor] = []
        self.is_coord: torch.Tensor | None = None  # of each token id
        self.slots: list[tuple[torch.Tensor, torch.Tensor]] = []

    def observe(self, head: torch.nn.Module, args: tuple, logits: torch.Tensor) -> None:
        """Forward hook of the head."""
        self.latest = logits[:, -1].float()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.settle(input_ids[:, -1])
        self.pending = self.latest
        return scores

    def settle(self, chosen: torch.Tensor) -> None:
        if self.pending is None:
            return
        logits, self.pending = self.pending, None
        self.logprobs.append(-cross_entropy(logits, chosen, reduction="none"))
        if self.keep_coord_logits:
            if self.is_coord is None:
                self.is_coord = torch.zeros(logits.size(1), dtype=torch.bool, device=logits.device)
                self.is_coord[self.coord_ids] = True
            rows = self.is_coord[chosen].nonzero()[:, 0]
            self.slots.append((rows, logits.index_select(0, rows).index_select(1, self.coord_ids)))

    def coord_logits(self, completions: list[list[int]]) -> list[torch.Tensor]:
        """Coordinate logits at the slots of each row's completion, cut before its end token."""
        if not self.slots:
            return [torch.zeros(0, len(self.coord_ids))] * len(completions)
        rows, logits = (torch.cat(parts).cpu() for parts in zip(*self.slots, strict=True))
        of_rows = logits[rows.argsort(stable=True)].split(rows.bincount(minlength=len(completions)).tolist())
        coord_ids = set(self.coord_ids.tolist())
        counts = [sum(token in coord_ids for token in ids) for ids in completions]
        return [of_row[:count] for of_row, count in zip(of_rows, counts, strict=True)]


class TransformersEngine:
    """
    Rollout engine on the training model.

    Args:
        unwrap (`Callable[[], AbstractContextManager[PreTrainedModel]]`):
            Returns a context that yields the model ready to generate (unwrapped from DDP, gathered under ZeRO-3).
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion.
        pad_token_id (`int`):
            Padding token.
        image_token_id (`int`):
            Image placeholder of the prompt.
        suppress_tokens (`Sequence[int]`):
            Tokens that are never generated: a sampled image or video placeholder has no features behind it.
        coord_ids (`torch.Tensor`):
            Token id of each bin, shape `(K,)`.
    """

    def __init__(
        self,
        unwrap: Callable[[], AbstractContextManager[PreTrainedModel]],
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        image_token_id: int,
        suppress_tokens: Sequence[int],
        coord_ids: torch.Tensor,
    ):
        self.unwrap = unwrap
        self.eos_token_ids = list(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.image_token_id = image_token_id
        self.suppress_tokens = list(suppress_tokens)
        self.coord_ids = coord_ids

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, features: ImageFeatures | None = None
    ) -> list[Rollout]:
        """See [`RolloutEngine.generate`]."""
        with self.unwrap() as model:
            device = model.device
            inputs = {name: tensor.to(device) for name, tensor in self._collate(prompts, features).items()}
            recorder = _Recorder(self.coord_ids.to(device), sampling.coord_logits)
            recording = sampling.logprobs or sampling.coord_logits
            head = model.get_output_embeddings()
            with (
                features.serve(backbone(model)) if features is not None else nullcontext(),
                head.register_forward_hook(recorder.observe) if recording else nullcontext(),
            ):
                output = model.generate(
                    **inputs,
                    generation_config=self.generation_config(sampling),
                    logits_processor=LogitsProcessorList([recorder] if recording else []),
                )
        completions = output[:, inputs["input_ids"].size(1) :]
        if recording:
            recorder.settle(output[:, -1])
        logprobs = torch.stack(recorder.logprobs, dim=1).cpu() if recording else None
        ended = [
            ids[: next((k for k, token in enumerate(ids) if token in self.eos_token_ids), len(ids))]
            for ids in completions.tolist()
        ]
        coord_logits = recorder.coord_logits(ended) if sampling.coord_logits else None
        rollouts = []
        for row, ids in enumerate(ended):
            rollouts.append(
                Rollout(
                    prompt_ids=prompts[row // sampling.num_generations].ids,
                    completion_ids=ids,
                    finish_reason="stop" if len(ids) < completions.size(1) else "length",
                    logprobs=logprobs[row, : len(ids)].tolist() if sampling.logprobs else None,
                    coord_logits=coord_logits[row] if sampling.coord_logits else None,
                )
            )
        return rollouts

    def generation_config(self, sampling: SamplingConfig) -> GenerationConfig:
        """
        Args:
            sampling ([`SamplingConfig`]):
                Decoding options.

        Returns:
            [`~transformers.GenerationConfig`]: The equivalent configuration.
        """
        options = {
            "max_new_tokens": sampling.max_completion_length,
            "do_sample": sampling.temperature > 0,
            "num_beams": sampling.num_beams,
            "num_return_sequences": sampling.num_generations,
            "repetition_penalty": sampling.repetition_penalty,
            "eos_token_id": self.eos_token_ids,
            "pad_token_id": self.pad_token_id,
            # NaN logits of a broken model are counted by the trainer, not raised by the sampler
            "remove_invalid_values": True,
        }
        if sampling.temperature > 0:
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
            }
        options |= sampling.generation_kwargs
        # Whatever else the user suppresses: a placeholder in a completion breaks the training forward
        options["suppress_tokens"] = [
            *self.suppress_tokens,
            *(sampling.generation_kwargs.get("suppress_tokens") or []),
        ]
        return GenerationConfig(**options, disable_compile=True)

    def _collate(self, prompts: Sequence[Prompt], features: ImageFeatures | None) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(prompt.ids) for prompt in prompts]
        input_ids = pad(ids, padding_value=self.pad_token_id, padding_side="left")
        mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left")
        pixels = (
            torch.cat([prompt.pixel_values for prompt in prompts])
            if features is None
            else feature_placeholders(prompts, range(len(prompts)))
        )
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "mm_token_type_ids": (input_ids == self.image_token_id).int(),
            "pixel_values": pixels,
            "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in prompts]),
        }

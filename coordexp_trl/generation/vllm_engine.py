# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollouts by vLLM, in the training process (colocate) or on a server, behind the interface of all engines.

The two modes want prompts in different forms: in the training process vLLM expands the one placeholder of each image
itself and would expand an expanded prompt a second time, silently; a server takes expanded prompts only. Images are
sent as the processor resized them, so that both sides decide the same number of image tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import inf, nan
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import nn
from transformers import ProcessorMixin
from vllm import SamplingParams

from coordexp_trl.generation.base import Rollout, SamplingConfig
from coordexp_trl.generation.image_features import ImageFeatures
from coordexp_trl.generation.main_process import on_main_process
from coordexp_trl.generation.prompts import Prompt
from coordexp_trl.generation.vllm_backend import VLLMBackend
from coordexp_trl.generation.vllm_config import VLLMConfig, check_vllm_sampling

MIN_BATCHED_TOKENS = 4096

# Of one completion: prompt ids, completion ids, and of each position the log-probabilities of the likeliest tokens,
# its own among them, with their ids
Completion = tuple[list[int], list[int], list[list[float | None]] | None, list[list[int]] | None]


class VLLMEngine:
    """
    Rollout engine on a vLLM copy of the training model.

    Args:
        config ([`VLLMConfig`]):
            Options.
        model (`torch.nn.Module`):
            Model in training; its `name_or_path` names the checkpoint that vLLM loads.
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator of the trainer.
        processor ([`~transformers.ProcessorMixin`]):
            Processor of the checkpoint.
        restore_image (`Callable[[Prompt], PIL.Image.Image]`):
            Returns a prompt's image as the model sees it, such as [`PromptBuilder.image`].
        eos_token_ids (`Sequence[int]`):
            Tokens that end a completion.
        image_token_id (`int`):
            Image placeholder of the prompt.
        suppress_tokens (`Sequence[int]`):
            Tokens that are never generated.
        coord_ids (`torch.Tensor`):
            Token id of each bin, shape `(K,)`.
        max_model_length (`int`):
            Tokens of the longest prompt and completion together, as far as the data is known.
        max_num_seqs (`int`):
            Sequences of one generation.
        seed (`int`):
            Seed of the sampling; colocated copies add the number of their group.
        max_logprobs (`int`, *optional*, defaults to `20`):
            Most log-probabilities of one token, see [`SamplingConfig`]'s `top_logprobs`; a server has its own limit.
        sends_weights (`bool`, *optional*, defaults to `True`):
            Whether [`VLLMEngine.sync`] will be called; without it, a server answers with the weights it has.
    """

    def __init__(
        self,
        config: VLLMConfig,
        model: nn.Module,
        accelerator: Accelerator,
        processor: ProcessorMixin,
        restore_image: Callable[[Prompt], Image.Image],
        eos_token_ids: Sequence[int],
        image_token_id: int,
        suppress_tokens: Sequence[int],
        coord_ids: torch.Tensor,
        max_model_length: int,
        max_num_seqs: int,
        seed: int,
        max_logprobs: int = 20,
        sends_weights: bool = True,
    ):
        self.config = config
        self.bin_of = {token: k for k, token in enumerate(coord_ids.tolist())}
        self.accelerator = accelerator
        self.tokenizer = processor.tokenizer
        self.restore_image = restore_image
        self.eos_token_ids = list(eos_token_ids)
        self.image_token_id = image_token_id
        self.bad_words = self.tokenizer.convert_ids_to_tokens(list(suppress_tokens))
        self.colocated = config.vllm_mode == "colocate"
        self.context = (self.colocated and config.vllm_max_model_length) or max_model_length
        checkpoint = getattr(model, "name_or_path", "")
        if self.colocated and not checkpoint:
            raise ValueError(
                "vLLM loads the checkpoint itself, but the model has no name_or_path. Save it with `save_pretrained` "
                "and give the folder as model."
            )
        if self.context < max_model_length:
            raise ValueError(
                f"vllm_max_model_length={self.context} is too short: the longest prompt of the data and "
                f"max_completion_length need {max_model_length} tokens. Raise it, leave it out, or reduce "
                "max_completion_length or max_pixels."
            )
        self.batched_tokens = config.vllm_max_num_batched_tokens or max(MIN_BATCHED_TOKENS, self.context)
        names = self.tokenizer.convert_ids_to_tokens(known := [*coord_ids[[0, -1]].tolist(), image_token_id])
        tokens = dict(zip(names, known, strict=True))
        self.backend = VLLMBackend(
            llm_options={
                "dtype": config.vllm_dtype,
                "enforce_eager": config.vllm_enforce_eager,
                "max_num_batched_tokens": self.batched_tokens,
                "limit_mm_per_prompt": config.vllm_limit_mm_per_prompt or {"image": 1, "video": 0},
                "logprobs_mode": "raw_logprobs",  # of the model, before temperature and filters
                "max_logprobs": max_logprobs,
                "seed": seed + accelerator.process_index // config.vllm_tensor_parallel_size,
                # Images come in the size that the training processor chose
                "mm_processor_kwargs": config.vllm_mm_processor_kwargs or {"do_resize": False},
            },
            check_server=lambda client: client.check_model(checkpoint, tokens, max_model_length),
            sends_weights=sends_weights,
            model=model,
            accelerator=accelerator,
            processing_class=processor,
            mode=config.vllm_mode,
            server_base_url=config.vllm_server_url,
            server_timeout=config.vllm_server_timeout,
            group_port=config.vllm_group_port,
            tensor_parallel_size=config.vllm_tensor_parallel_size,
            gpu_memory_utilization=config.vllm_gpu_memory_utilization,
            max_model_length=self.context,
            max_num_seqs=config.vllm_max_num_seqs or max_num_seqs,
            enable_sleep_mode=config.vllm_enable_sleep_mode,
            model_impl=config.vllm_model_impl,
        )
        self.context = self.backend.server_context or self.context

    def sync(self, model: nn.Module) -> None:
        """
        Gives vLLM the current weights; every process must call it.

        Args:
            model (`torch.nn.Module`):
                Model in training.
        """
        self.backend.model = model
        self.backend.sync_weights()

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, features: ImageFeatures | None = None
    ) -> list[Rollout]:
        """See [`RolloutEngine.generate`]; every process must call it."""
        check_vllm_sampling(sampling)
        options = self._options(sampling)
        for prompt in prompts:
            self._check_length(prompt, sampling)
        images = [self.restore_image(prompt) for prompt in prompts]
        generate = self._generate_here if self.colocated else self._generate_on_server
        completions = generate([prompt.ids for prompt in prompts], images, sampling, options)
        return [self._rollout(*completion, sampling) for completion in completions]

    def close(self) -> None:
        """
        Ends vLLM. In the training process it takes the process group with it, which must not be gone before: call
        this at the end of a program.
        """
        if self.colocated:
            self.backend.llm.llm_engine.engine_core.shutdown()
        elif self.accelerator.is_main_process and self.backend.sends_weights:
            self.backend.vllm_client.close_communicator()

    def _check_length(self, prompt: Prompt, sampling: SamplingConfig) -> None:
        needed = len(prompt.ids) + sampling.max_completion_length
        if needed > self.context:
            raise ValueError(
                f"A prompt of {len(prompt.ids)} tokens and max_completion_length={sampling.max_completion_length} "
                f"exceed vLLM's context of {self.context} tokens. "
                f"{'Set vllm_max_model_length' if self.colocated else 'Start the server with --max-model-len set'} to "
                f"{needed} or more, or reduce max_completion_length or max_pixels."
            )
        image_tokens = prompt.ids.count(self.image_token_id)
        if self.colocated and image_tokens > self.batched_tokens:
            raise ValueError(
                f"An image of {image_tokens} tokens exceeds vllm_max_num_batched_tokens={self.batched_tokens}. Raise "
                "it, or reduce max_pixels."
            )

    def _options(self, sampling: SamplingConfig) -> dict[str, Any]:
        """What [`~vllm.SamplingParams`] takes beside TRL's own options."""
        if unknown := sampling.generation_kwargs.keys() - set(SamplingParams.__struct_fields__):
            raise ValueError(
                f"generation_kwargs has {sorted(unknown)}, which vLLM's SamplingParams do not know. With use_vllm "
                "they are options of vLLM."
            )
        options = {"stop_token_ids": self.eos_token_ids, **sampling.generation_kwargs}
        # Whatever else the user forbids: a placeholder in a completion breaks the training forward
        options["bad_words"] = [*self.bad_words, *(sampling.generation_kwargs.get("bad_words") or [])]
        return options

    def _generate_here(
        self, prompt_ids: list[list[int]], images: list[Image.Image], sampling: SamplingConfig, options: dict[str, Any]
    ) -> Iterator[Completion]:
        backend, copies = self.backend, sampling.num_generations
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length"):
            setattr(backend, name, getattr(sampling, name))
        backend.logprobs = _num_logprobs(sampling)
        backend.generation_kwargs = options
        short = [collapse_runs(ids, self.image_token_id) for ids in prompt_ids]
        seen, completions, *likeliest = backend.generate(
            [ids for ids in short for _ in range(copies)],
            [[image] for image in images for _ in range(copies)],
            num_generations=copies,
        )
        return zip(seen, completions, *(values or [None] * len(seen) for values in likeliest), strict=True)

    def _generate_on_server(
        self, prompt_ids: list[list[int]], images: list[Image.Image], sampling: SamplingConfig, options: dict[str, Any]
    ) -> Iterator[Completion]:
        all_ids, all_images, counts = map(gather_object, (prompt_ids, images, [len(prompt_ids)]))
        backend, copies = self.backend, sampling.num_generations

        def ask() -> tuple:
            client = backend.vllm_client
            features = client.image_features([[image] for image in all_images])
            for ids, feature in zip(all_ids, features, strict=True):
                check_image_length(ids.count(self.image_token_id), feature, client.base_url)
            output = client.generate(
                prompts=all_ids,
                features=[backend._place_features(*pair) for pair in zip(features, all_ids, strict=True)],
                n=copies,
                repetition_penalty=sampling.repetition_penalty,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p or 0.0,
                max_tokens=sampling.max_completion_length,
                logprobs=_num_logprobs(sampling),
                generation_kwargs=options,
            )
            return output["completion_ids"], output["logprobs"], output["logprob_token_ids"]

        completions, *likeliest = on_main_process(self.accelerator, ask)
        start = sum(counts[: self.accelerator.process_index]) * copies
        mine = slice(start, start + len(prompt_ids) * copies)
        seen = [ids for ids in prompt_ids for _ in range(copies)]
        likeliest = (values[mine] if values else [None] * len(seen) for values in likeliest)
        return zip(seen, completions[mine], *likeliest, strict=True)

    def _rollout(
        self,
        prompt_ids: list[int],
        ids: list[int],
        logprobs: list[list[float | None]] | None,
        candidates: list[list[int]] | None,
        sampling: SamplingConfig,
    ) -> Rollout:
        length = next((k for k, token in enumerate(ids) if token in self.eos_token_ids), len(ids))
        rollout = Rollout(list(prompt_ids), list(ids[:length]), "stop" if length < len(ids) else "length")
        if logprobs is None:
            return rollout
        # A NaN is what a broken model has there, as in the other engine
        likeliest = [
            {token: nan if value is None else value for token, value in zip(tokens, values, strict=True)}
            for tokens, values in zip(candidates[:length], logprobs[:length], strict=True)
        ]
        if sampling.logprobs:
            rollout.logprobs = [top[token] for token, top in zip(rollout.completion_ids, likeliest, strict=True)]
        if sampling.coord_logits:
            rollout.coord_logits = self._coord_logits(rollout.completion_ids, likeliest)
        return rollout

    def _coord_logits(self, ids: list[int], likeliest: list[dict[int, float]]) -> torch.Tensor:
        """What is known of the coordinate logits: log-probabilities of the likeliest tokens, `-inf` elsewhere."""
        slots = [top for token, top in zip(ids, likeliest, strict=True) if token in self.bin_of]
        logits = torch.full((len(slots), len(self.bin_of)), -inf)
        for row, top in zip(logits, slots, strict=True):
            known = {self.bin_of[token]: value for token, value in top.items() if token in self.bin_of}
            row[list(known)] = torch.tensor(list(known.values()))
        return logits


def _num_logprobs(sampling: SamplingConfig) -> int | None:
    """Log-probabilities a token beside its own; `None` for not even that one."""
    if sampling.coord_logits:
        return sampling.top_logprobs
    return 0 if sampling.logprobs else None


def collapse_runs(ids: Sequence[int], token: int) -> list[int]:
    """
    Args:
        ids (`Sequence[int]`):
            Token ids.
        token (`int`):
            A token.

    Returns:
        `list[int]`: The ids with each run of `token` as one.
    """
    return [kept for value, run in groupby(ids) for kept in ([value] if value == token else run)]


def check_image_length(expected: int, features: dict[str, Any], url: str) -> None:
    """
    Args:
        expected (`int`):
            Image tokens of the training prompt.
        features (`dict[str, Any]`):
            What the server made of the image.
        url (`str`):
            Address of the server, for the message.

    Raises:
        `ValueError`: If the server resized the image.
    """
    actual = sum(place["length"] for place in features["mm_placeholders"]["image"])
    if actual != expected:
        raise ValueError(
            f"The server at {url} makes {actual} tokens of an image that the training prompt has with {expected}. "
            "Start it with `--mm-processor-kwargs '{\"do_resize\": false}'`: images arrive in their final size."
        )

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Loads a model for inference, and starts the engine that generates with it."""

from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftConfig, PeftModel, PromptLearningConfig
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from coordexp_trl.checkpoints import end_token_ids
from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation import PromptBuilder, RolloutEngine, TransformersEngine, VLLMConfig


def load_model(
    model: str, adapter: str | None = None, dtype: str = "auto", device: torch.device | str = "cpu"
) -> PreTrainedModel | PeftModel:
    """
    Args:
        model (`str`):
            Checkpoint folder or model id.
        adapter (`str`, *optional*):
            Folder of a PEFT adapter for it.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of the weights.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Device to load to.

    Returns:
        The model in evaluation mode, the adapter not merged.

    Raises:
        `ValueError`: If the adapter is none, or does not fit the model.
    """
    dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, device_map={"": torch.device(device)})
    if adapter is not None:
        check_adapter(adapter)
        try:
            loaded = PeftModel.from_pretrained(loaded, adapter)
        except (RuntimeError, ValueError) as error:  # other shapes, modules that are not there
            raise ValueError(f"adapter = {adapter!r}: does not fit model = {model!r}: {error}") from error
    return loaded.eval()


def check_adapter(adapter: str) -> None:
    """Raises a `ValueError` unless the folder holds an adapter that works on the weights."""
    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(
            f"adapter = {adapter!r}: has no adapter_config.json. Give the folder of a PEFT adapter; a checkpoint with "
            "all weights is given as model."
        )
    if isinstance(PeftConfig.from_pretrained(adapter), PromptLearningConfig):
        raise ValueError(
            f"adapter = {adapter!r}: is a prompt-learning adapter, whose virtual tokens shift every position. Use "
            "LoRA or another adapter of weights."
        )


def empty_model(model: str) -> PreTrainedModel:
    """Returns the model without weights, for what its configuration says: vLLM loads the weights itself."""
    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(config)
    if (Path(model) / "generation_config.json").is_file() or not Path(model).is_dir():
        empty.generation_config = GenerationConfig.from_pretrained(model)
    return empty


def start_transformers(
    model: PreTrainedModel | PeftModel, processor: ProcessorMixin, vocabulary: CoordVocabulary
) -> TransformersEngine:
    """Returns the engine that generates with the model itself."""
    return TransformersEngine(
        lambda: nullcontext(model),
        eos_token_ids=end_token_ids(model, processor),
        pad_token_id=processor.tokenizer.pad_token_id,
        image_token_id=model.config.image_token_id,
        suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
        coord_ids=vocabulary.ids,
    )


def start_vllm(
    options: VLLMConfig,
    model: PreTrainedModel | PeftModel,
    builder: PromptBuilder,
    vocabulary: CoordVocabulary,
    context: int,
    max_num_seqs: int,
    seed: int,
    max_logprobs: int,
    device: torch.device,
) -> RolloutEngine:
    """
    Starts vLLM, or connects to its server, and sends it the weights where an adapter changes them.

    Args:
        options ([`VLLMConfig`]):
            Options of vLLM.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            From [`load_model`] with an adapter, else from [`empty_model`].
        builder ([`PromptBuilder`]):
            Makes the prompts.
        vocabulary ([`CoordVocabulary`]):
            Coordinate tokens.
        context (`int`):
            Tokens of the longest prompt and completion together.
        max_num_seqs (`int`):
            Prompts of one call.
        seed (`int`):
            Seed of sampling.
        max_logprobs (`int`):
            Most log-probabilities that are asked for, of one token.
        device (`torch.device`):
            Device of this process.

    Returns:
        [`RolloutEngine`]: The engine.
    """
    from coordexp_trl.generation.vllm_engine import VLLMEngine  # takes seconds, and has not to be installed

    adapted = isinstance(model, PeftModel)
    engine = VLLMEngine(
        config=options,
        model=model,
        accelerator=Accelerator(cpu=device.type == "cpu"),
        processor=builder.processor,
        restore_image=builder.image,
        eos_token_ids=end_token_ids(model, builder.processor),
        image_token_id=model.config.image_token_id,
        suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
        coord_ids=vocabulary.ids,
        max_model_length=context,
        max_num_seqs=max_num_seqs,
        seed=seed,
        max_logprobs=max(20, max_logprobs),
        sends_weights=adapted,
    )
    if adapted:
        engine.sync(model)
    return engine

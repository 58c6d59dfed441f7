# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is loaded, wrapped and checked before a trainer starts."""

from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from peft import PeftConfig, PeftModel, PromptLearningConfig, get_peft_model
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin, TrainingArguments
from trl.trainer.utils import create_model_from_path, get_config_model_id

from coordexp_trl.coordinates import CoordVocabulary

logger = get_logger(__name__)


def load_model_and_processor(
    model: str | PreTrainedModel | PeftModel, processor: ProcessorMixin | None, args: TrainingArguments
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """
    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Checkpoint or instance.
        processor ([`~transformers.ProcessorMixin`], *optional*):
            Processor; loaded from the model's checkpoint by default.
        args ([`~transformers.TrainingArguments`]):
            Trainer configuration with `model_init_kwargs`.

    Returns:
        The model and its processor, which pads on the left and agrees with the model on the padding token.

    Raises:
        `ValueError`: If the processor cannot process images.
    """
    options: dict[str, Any] = dict(args.model_init_kwargs or {})
    if isinstance(model, str):
        is_path = model.startswith((".", "/", "~")) or model.count("/") > 1  # a model id has one slash at most
        if is_path and not Path(model).expanduser().is_dir():
            raise ValueError(f"model={model!r}: no such folder. Give a checkpoint folder or a model id.")
        name, revision = model, options.get("revision")
        if args.distributed_state.distributed_type in ["MULTI_GPU", "DEEPSPEED"]:
            options["device_map"] = None
        model = create_model_from_path(model, **options)
    else:
        name, revision = get_config_model_id(model.config), None
        if options:
            logger.warning("`model_init_kwargs` is ignored: the model is already instantiated.")
    if processor is None:
        processor = AutoProcessor.from_pretrained(name, revision=revision, padding_side="left")
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"processing_class is a {type(processor).__name__}, which cannot process images. Pass the checkpoint's "
            "processor (`AutoProcessor.from_pretrained`)."
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def end_token_ids(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """Returns every token that ends a completion, the tokenizer's own first."""
    declared = model.generation_config.eos_token_id
    declared = [] if declared is None else [declared] if isinstance(declared, int) else declared
    return list(dict.fromkeys([processor.tokenizer.eos_token_id, *declared]))


def wrap_with_adapters(
    model: PreTrainedModel | PeftModel, peft_config: PeftConfig | None, args: TrainingArguments
) -> PreTrainedModel | PeftModel:
    """
    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Model.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to add.
        args ([`~transformers.TrainingArguments`]):
            Trainer configuration; gradient checkpointing is prepared for adapters.

    Returns:
        The model with its adapters.

    Raises:
        `ValueError`: If the model has adapters already, or the adapters work through virtual tokens.
    """
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if peft_config is not None:
        if is_peft_model(model):
            raise ValueError(
                "peft_config was given together with a PeftModel. Pass the PeftModel alone to train its adapter, or "
                "merge the adapter and pass the merged model with peft_config."
            )
        # ZeRO-3 gathers in one dtype, so the adapters must keep the base model's
        model = get_peft_model(model, peft_config, **({"autocast_adapter_dtype": False} if zero3 else {}))
    if is_peft_model(model):
        if any(isinstance(config, PromptLearningConfig) for config in model.peft_config.values()):
            raise ValueError(
                "Prompt-learning adapters prepend virtual tokens, which would shift every coordinate slot. Use LoRA "
                "or another weight-based adapter."
            )
        if args.gradient_checkpointing:
            model.enable_input_require_grads()
            if zero3:  # https://github.com/huggingface/trl/issues/2514
                args.gradient_checkpointing_kwargs = {
                    **(args.gradient_checkpointing_kwargs or {}),
                    "use_reentrant": True,
                }
    return model


def read_vocabulary(model: PreTrainedModel | PeftModel, processor: ProcessorMixin) -> CoordVocabulary:
    """
    Returns the coordinate tokens of the checkpoint.

    Raises:
        `ValueError`: If coordinate tokens are missing, or the tokenizer is longer than the embedding.
    """
    vocabulary = CoordVocabulary.from_tokenizer(processor.tokenizer)
    rows = model.config.get_text_config().vocab_size
    vocabulary.check_embedding_rows(rows, len(processor.tokenizer))
    return vocabulary


def refuse_data_parallel(args: TrainingArguments) -> None:
    """Raises a `ValueError` where the Trainer would wrap the model in `nn.DataParallel`, which has no rollouts."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which `nn.DataParallel` cannot train with rollouts. "
            "Launch with `accelerate launch`, or show one GPU with CUDA_VISIBLE_DEVICES."
        )

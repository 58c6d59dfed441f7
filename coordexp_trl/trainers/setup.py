# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is loaded, wrapped and checked before a trainer starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from peft import PeftConfig, PeftModel, PromptLearningConfig, get_peft_model
from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments
from trl.trainer.utils import create_model_from_path, get_config_model_id

from coordexp_trl.adapters.loading import base_of_adapter
from coordexp_trl.adapters.rows import check_token_rows, use_row_lookup, with_token_rows
from coordexp_trl.checkpoints import check_model_name, check_processor, load_processor, share_padding_token

logger = get_logger(__name__)


def load_model_and_processor(
    model: str | PreTrainedModel | PeftModel, processor: ProcessorMixin | None, args: TrainingArguments
) -> tuple[PreTrainedModel | PeftModel, ProcessorMixin]:
    """
    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Checkpoint, adapter to be trained further (on the base that it names), or instance.
        processor ([`~transformers.ProcessorMixin`], *optional*):
            Processor; loaded from the model's checkpoint by default, from the adapter's folder if it has one.
        args ([`~transformers.TrainingArguments`]):
            Trainer configuration with `model_init_kwargs`.

    Returns:
        The model and its processor, which pads on the left and agrees with the model on the padding token.

    Raises:
        `ValueError`: If the processor cannot process images.
    """
    options: dict[str, Any] = dict(args.model_init_kwargs or {})
    if isinstance(model, str):
        check_model_name(model)
        name, revision = model, options.get("revision")
        if args.distributed_state.distributed_type in ["MULTI_GPU", "DEEPSPEED"]:
            options["device_map"] = None
        base = base_of_adapter(model)
        if base is None:
            model = create_model_from_path(model, **options)
        else:
            model = _load_adapter(name, base, options)
            name = name if (Path(name).expanduser() / "tokenizer_config.json").is_file() else base
    else:
        name, revision = get_config_model_id(model.config), None
        if options:
            logger.warning("`model_init_kwargs` is ignored: the model is already instantiated.")
    if processor is None:
        processor = load_processor(name, revision)
    check_processor(processor)
    share_padding_token(model, processor)
    return model, processor


def _load_adapter(folder: str, base: str, options: dict[str, Any]) -> PeftModel:
    try:
        check_model_name(base)
        return PeftModel.from_pretrained(create_model_from_path(base, **options), folder, is_trainable=True)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(
            f"model={folder!r} is an adapter of {base!r}, which cannot be loaded: {error} Correct "
            "base_model_name_or_path in its adapter_config.json."
        ) from error


def wrap_with_adapters(
    model: PreTrainedModel | PeftModel,
    peft_config: PeftConfig | None,
    args: TrainingArguments,
    coord_ids: Sequence[int],
) -> PreTrainedModel | PeftModel:
    """
    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Model.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapters to add.
        args ([`~transformers.TrainingArguments`]):
            Trainer configuration; gradient checkpointing is prepared for adapters.
        coord_ids (`Sequence[int]`):
            Token id of each bin, whose rows learn where `args.coord_rows` is set.

    Returns:
        The model with its adapters.

    Raises:
        `ValueError`: If the model has adapters already, the adapters work through virtual tokens, or they cannot
            train the rows.
    """
    if args.coord_rows:
        if is_peft_model(model):
            check_token_rows(model, coord_ids)
        else:
            peft_config = with_token_rows(peft_config, model, coord_ids)
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if peft_config is not None:
        if is_peft_model(model):
            raise ValueError(
                "peft_config (use_peft) was given together with a model that has an adapter. Leave peft_config out to "
                "train that adapter further, or merge it with `coordexp merge` and train a new one on the result."
            )
        # ZeRO-3 gathers in one dtype, so the adapters must keep the base model's
        model = get_peft_model(model, peft_config, **({"autocast_adapter_dtype": False} if zero3 else {}))
    if is_peft_model(model):
        use_row_lookup(model)
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


def refuse_data_parallel(args: TrainingArguments) -> None:
    """Raises a `ValueError` where the Trainer would wrap the model in `nn.DataParallel`, which has no rollouts."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which `nn.DataParallel` cannot train with rollouts. "
            "Launch with `accelerate launch`, or show one GPU with CUDA_VISIBLE_DEVICES."
        )

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What training and inference read from a checkpoint in the same way: its processor and its tokens."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from coordexp_trl.coordinates import CoordVocabulary

PROMPTING_FILE = "coordexp.json"
PROMPTING = ("prompt", "system_prompt", "protocol", "min_pixels", "max_pixels")


def write_prompting(folder: str | Path, options: object) -> None:
    """
    Writes how a model was asked in training, so that inference asks it in the same way.

    Args:
        folder (`str` or `Path`):
            Checkpoint or adapter folder.
        options (`object`):
            Has the attributes `PROMPTING`.
    """
    values = {name: getattr(options, name) for name in PROMPTING}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    Path(folder, PROMPTING_FILE).write_text(text, encoding="utf-8")


def read_prompting(*folders: str | Path | None) -> dict[str, Any]:
    """
    Args:
        folders (`str` or `Path` or `None`):
            Checkpoint and adapter folders, or model ids.

    Returns:
        `dict[str, Any]`: What the first of them that has it says of the options `PROMPTING`, without those that it
        leaves open.

    Raises:
        `ValueError`: If the file is damaged.
    """
    for folder in folders:
        path = None if folder is None else Path(folder).expanduser() / PROMPTING_FILE
        if path is None or not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return {name: values[name] for name in PROMPTING if values.get(name) is not None}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: must hold a JSON object ({error}). Remove it, or save anew.") from error
    return {}


def check_model_name(model: str) -> None:
    """Raises a `ValueError` if `model` is the path of a folder that does not exist; a model id passes."""
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1  # a model id has one slash at most
    if is_path and not Path(model).expanduser().is_dir():
        raise ValueError(f"model={model!r}: no such folder. Give a checkpoint folder or a model id.")


def load_processor(model: str, revision: str | None = None) -> ProcessorMixin:
    """
    Args:
        model (`str`):
            Checkpoint folder or model id.
        revision (`str`, *optional*):
            Revision of a model id.

    Returns:
        [`~transformers.ProcessorMixin`]: Its processor, which pads on the left.

    Raises:
        `ValueError`: If the checkpoint's processor cannot process images.
    """
    processor = AutoProcessor.from_pretrained(model, revision=revision, padding_side="left")
    check_processor(processor)
    return processor


def check_processor(processor: object) -> None:
    """Raises a `ValueError` if a processor is a mere tokenizer."""
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"processing_class is a {type(processor).__name__}, which cannot process images. Pass the checkpoint's "
            "processor (`AutoProcessor.from_pretrained`)."
        )


def share_padding_token(model: PreTrainedModel | PeftModel, processor: ProcessorMixin) -> None:
    """Makes model and processor agree on the padding token, the end token where the tokenizer has none."""
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def end_token_ids(model: PreTrainedModel | PeftModel, processor: ProcessorMixin) -> list[int]:
    """Returns every token that ends a completion, the tokenizer's own first."""
    declared = model.generation_config.eos_token_id
    declared = [] if declared is None else [declared] if isinstance(declared, int) else declared
    return list(dict.fromkeys([processor.tokenizer.eos_token_id, *declared]))


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

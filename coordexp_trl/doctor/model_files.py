# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of a checkpoint's files: are they all there and whole, and do they belong together?"""

from collections import Counter
from collections.abc import Iterator

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from coordexp_trl.doctor.check import Check, fail, listed, ok, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.machine import format_bytes
from coordexp_trl.doctor.safetensors_files import read_headers

TESTED_TYPES = ("qwen3_vl",)
RELATED_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl_moe", "qwen3_5", "glm4v")
_TRAINABLE = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_DOWNLOAD = "Download the checkpoint again, or save it again with save_pretrained (model and processor)."


def check_folder(checkpoint: Checkpoint) -> Iterator[Check]:
    """The folder itself."""
    folder = checkpoint.folder
    if not folder.is_dir():
        yield fail(
            "model.folder",
            f"{folder} is not a folder",
            f"Correct the path; of a model of the Hub get a copy first: hf download {folder} --local-dir DIR",
        )
    elif not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        yield fail(
            "model.folder",
            f"{folder} is not a checkpoint: no config.json",
            "Give this folder as --adapter, and its base as --model." if adapter else _DOWNLOAD,
        )
    else:
        yield ok("model.folder", str(folder))


def check_config(checkpoint: Checkpoint) -> Iterator[Check]:
    """Configuration and type of model."""
    name = "model.config"
    try:
        config = checkpoint.config
    except (OSError, ValueError) as error:
        yield fail(name, f"config.json cannot be read: {error}", _DOWNLOAD)
        return
    kind = config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        yield fail(
            name,
            f"model_type {kind!r} is not a vision-language model of transformers",
            f"Use a model of type {', '.join(TESTED_TYPES)}.",
        )
    elif kind in TESTED_TYPES:
        yield ok(name, f"{kind}, {config.get_text_config().max_position_embeddings} positions")
    elif kind in RELATED_TYPES:
        yield warn(
            name,
            f"{kind}: a relative of the models that this package is tested with ({', '.join(TESTED_TYPES)})",
            "Try a short run, and compare losses and boxes before you trust it.",
        )
    else:
        yield fail(
            name,
            f"model_type {kind!r} has another layout of image tokens than this package works with",
            f"Use a model of type {', '.join(TESTED_TYPES + RELATED_TYPES)}.",
        )


def check_weights(checkpoint: Checkpoint) -> Iterator[Check]:
    """Every safetensors file, by its header."""
    name, folder = "model.weights", checkpoint.folder
    headers = read_headers(folder)
    if not headers.files:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
        yield fail(
            name,
            "weights in .bin or .pth files only" if pickled else "no model.safetensors and no index of shards",
            "Load it with AutoModelForImageTextToText.from_pretrained and save it with save_pretrained."
            if pickled
            else _DOWNLOAD,
        )
    elif headers.problems:
        yield fail(name, listed(headers.problems), _DOWNLOAD)
    else:
        size = sum(tensor.nbytes() for tensor in headers.tensors.values())
        files = headers.files[0] if len(headers.files) == 1 else f"{len(headers.files)} files"
        yield ok(name, f"{files}, {len(headers.tensors)} tensors, {format_bytes(size)}, every header whole")


def check_structure(checkpoint: Checkpoint) -> Iterator[Check]:
    """Do the stored tensors fit the model of config.json? The embedding and the head have a check of their own."""
    name, structure = "model.structure", checkpoint.structure
    model = structure.model
    matrices = {structure.name_of(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    other = [f"{key} is {a}, not {b}" for key, (a, b) in sorted(structure.other_shapes.items()) if key not in matrices]
    missing = sorted(structure.missing - matrices)
    if missing or other:
        found = [f"{len(missing)} tensors are missing: {listed(missing)}"] if missing else []
        found += [f"{len(other)} tensors have another shape: {listed(other)}"] if other else []
        yield fail(name, "; ".join(found), f"config.json and the weights do not belong together. {_DOWNLOAD}")
    elif structure.unexpected:
        yield warn(
            name,
            f"{len(structure.unexpected)} tensors have no place in the model: {listed(sorted(structure.unexpected))}",
            "transformers ignores them. Make sure that config.json belongs to these weights.",
        )
    else:
        count = sum(parameter.numel() for parameter in model.parameters())
        yield ok(name, f"{type(model).__name__}, {count / 1e6:,.1f} M parameters, all stored in their shapes")


def check_dtype(checkpoint: Checkpoint) -> Iterator[Check]:
    """Are the weights of a type that can be trained, and the one that config.json names?"""
    name = "model.dtype"
    counts = Counter(tensor.dtype for tensor in checkpoint.tensors.values())
    found = ", ".join(f"{_TRAINABLE.get(dtype, dtype)} ({count})" for dtype, count in counts.most_common())
    declared = str(checkpoint.config.dtype).removeprefix("torch.")
    if getattr(checkpoint.config, "quantization_config", None) is not None or not set(counts) <= set(_TRAINABLE):
        yield fail(name, f"quantised: {found}", "Use the original checkpoint in bfloat16, float16 or float32.")
    elif len(counts) > 1:
        yield warn(name, f"several types: {found}", "Save the model in one type: from_pretrained(..., dtype=...).")
    elif checkpoint.config.dtype is not None and declared != _TRAINABLE[next(iter(counts))]:
        yield warn(
            name,
            f"stored as {found}, but config.json says {declared}",
            "Set dtype in config.json to what is stored, or save the model again.",
        )
    else:
        yield ok(name, _TRAINABLE[next(iter(counts))])


def check_tokenizer(checkpoint: Checkpoint) -> Iterator[Check]:
    """The tokenizer."""
    name = "model.tokenizer"
    try:
        tokenizer = checkpoint.tokenizer
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        yield fail(name, f"does not load: {error}", _DOWNLOAD)
        return
    files = tokenizer.vocab_files_names.values()
    if not any((checkpoint.folder / file).is_file() for file in files):  # transformers builds an empty one then
        yield fail(name, f"none of {', '.join(files)} is there", _DOWNLOAD)
    else:
        yield ok(name, f"{type(tokenizer).__name__}, {len(tokenizer)} tokens")


def check_processor_files(checkpoint: Checkpoint) -> Iterator[Check]:
    """The processor of images and text, and its chat template."""
    name = "model.processor"
    remedy = "Save the processor of the original model there: AutoProcessor.from_pretrained(...).save_pretrained(DIR)."
    try:
        processor = checkpoint.processor
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        yield fail(name, f"does not load: {error}", remedy)
        return
    if processor.chat_template is None:
        yield fail(name, f"{type(processor).__name__} has no chat template", remedy)
    elif len(processor.tokenizer) != len(checkpoint.tokenizer):
        yield fail(name, "its tokenizer is not the one of the folder", remedy)
    else:
        yield ok(name, f"{type(processor).__name__} with {type(processor.image_processor).__name__}")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint folder, whose parts are read when they are first asked for."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from coordexp_trl.checkpoints import load_processor
from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.doctor.safetensors_files import StoredTensor, read_headers


@dataclass
class Structure:
    """
    The model without its weights, and how the stored tensors fit it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model on the meta device.
        missing (`set[str]`):
            Parameters that are not stored.
        unexpected (`set[str]`):
            Stored tensors that the model has no place for.
        other_shapes (`dict[str, tuple[tuple[int, ...], tuple[int, ...]]]`):
            Parameters stored with another shape: that one, and the model's.
    """

    model: PreTrainedModel
    missing: set[str]
    unexpected: set[str]
    other_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def name_of(self, module: torch.nn.Module) -> str:
        """Returns the name of a module's weight."""
        return next(name for name, child in self.model.named_modules() if child is module) + ".weight"

    def rows_of(self, module: torch.nn.Module) -> int:
        """Returns how many rows of a matrix are stored."""
        name = self.name_of(module)
        return self.other_shapes[name][0][0] if name in self.other_shapes else module.weight.shape[0]


class Checkpoint:
    """
    A checkpoint folder. Parts are read when they are first asked for, and raise what reading them raises.

    Args:
        folder (`str` or `Path`):
            The folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration."""
        return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)

    @property
    def num_tokens(self) -> int:
        """The tokenizer's highest id + 1."""
        return 1 + max(self.tokenizer.get_vocab().values())

    @cached_property
    def processor(self) -> ProcessorMixin:
        """The processor."""
        return load_processor(str(self.folder))

    @cached_property
    def vocabulary(self) -> CoordVocabulary:
        """The coordinate tokens."""
        return CoordVocabulary.from_tokenizer(self.tokenizer)

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The stored tensors by name, from the headers of the files that can be read."""
        return read_headers(self.folder).tensors

    @cached_property
    def structure(self) -> Structure:
        """The model as the trainer would load it, on the meta device: no weight is read."""
        model, info = AutoModelForImageTextToText.from_pretrained(
            self.folder,
            device_map="meta",
            dtype="auto",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        shapes = {name: (tuple(stored), tuple(own)) for name, stored, own in info["mismatched_keys"]}
        return Structure(model, set(info["missing_keys"]), set(info["unexpected_keys"]), shapes)

    @cached_property
    def embedding(self) -> StoredTensor | None:
        """The stored embedding."""
        return self.stored(self.structure.name_of(self.structure.model.get_input_embeddings()))

    @cached_property
    def head(self) -> StoredTensor | None:
        """The stored head."""
        return self.stored(self.structure.name_of(self.structure.model.get_output_embeddings()))

    @cached_property
    def tied(self) -> bool:
        """Whether transformers ties head and embedding: config.json says so, and no other head is stored."""
        if not self.config.tie_word_embeddings:
            return False
        return self.head is None or self.embedding is None or self.head.looks_equal(self.embedding)

    def stored(self, name: str) -> StoredTensor | None:
        """Returns the tensor of a parameter; checkpoints of earlier releases have other prefixes."""
        ending = ".".join(name.split(".")[-2:])
        found = [key for key in self.tensors if f".{key}".endswith(f".{ending}")]
        key = name if name in found else found[0] if len(found) == 1 else None
        return None if key is None else self.tensors[key]

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns the content of a JSON file of the folder, `None` if it is not there."""
        path = self.folder / name
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

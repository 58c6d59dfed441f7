# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The protocols of a checkpoint that a command names."""

from collections.abc import Sequence


def load_protocols(model: str | None, names: Sequence[str] = ("tags", "json")) -> list:
    """Returns the protocols with the tokenizer of a checkpoint folder, none without one."""
    if model is None:
        return []
    from transformers import AutoTokenizer

    from coordexp_trl.protocols import get_protocol

    tokenizer = AutoTokenizer.from_pretrained(model)
    return [get_protocol(name, tokenizer) for name in names]

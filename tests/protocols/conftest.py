# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the protocol tests: one tokenizer, both protocols."""

import pytest

from coordexp_trl.protocols import get_protocol
from coordexp_trl.tiny import build_tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def protocols(tokenizer):
    return {name: get_protocol(name, tokenizer) for name in ("tags", "json")}


@pytest.fixture(scope="session")
def to_ids(tokenizer):
    """Text in which each `#` stands for the next coordinate token, and `€` for the end token, to token ids."""

    def convert(text: str) -> list[int]:
        bins = iter(range(text.count("#")))
        text = "".join(f"<|coord_{next(bins)}|>" if character == "#" else character for character in text)
        return tokenizer(text.replace("€", "<|im_end|>"), add_special_tokens=False)["input_ids"]

    return convert

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Protocols: a set of objects as text and as tokens, and back."""

from transformers import PreTrainedTokenizerBase

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.protocols.base import Protocol
from coordexp_trl.protocols.json import JsonProtocol
from coordexp_trl.protocols.parsed import (
    DROP_REASONS,
    OBJECT_DROP_REASONS,
    SET_DROP_REASONS,
    EncodedObjects,
    ParsedCompletion,
    ParsedObject,
)
from coordexp_trl.protocols.tags import TagsProtocol

__all__ = [
    "DROP_REASONS",
    "OBJECT_DROP_REASONS",
    "PROTOCOLS",
    "SET_DROP_REASONS",
    "EncodedObjects",
    "JsonProtocol",
    "ParsedCompletion",
    "ParsedObject",
    "Protocol",
    "TagsProtocol",
    "get_protocol",
]

PROTOCOLS: dict[str, type[Protocol]] = {protocol.name: protocol for protocol in (TagsProtocol, JsonProtocol)}


def get_protocol(name: str, tokenizer: PreTrainedTokenizerBase, vocabulary: CoordVocabulary | None = None) -> Protocol:
    """
    Returns a protocol bound to a tokenizer.

    Args:
        name (`str`):
            `"tags"` or `"json"`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A byte-level BPE tokenizer with coordinate tokens.
        vocabulary ([`CoordVocabulary`], *optional*):
            Its coordinate tokens. Defaults to `CoordVocabulary.from_tokenizer(tokenizer)`, 1000 bins.

    Returns:
        [`Protocol`]

    Raises:
        `ValueError`: if there is no such protocol, or the tokenizer does not fit.

    Example:

    ```python
    >>> from coordexp_trl.protocols import get_protocol
    >>> from coordexp_trl.records import DetectionObject
    >>> from coordexp_trl.tiny import build_tiny_tokenizer
    >>> protocol = get_protocol("tags", build_tiny_tokenizer())
    >>> ids = protocol.encode([DetectionObject(desc="black cat", bins=(110, 310, 410, 705))])
    >>> protocol.parse(ids).objects[0].bins
    (110, 310, 410, 705)
    ```
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol = {name!r}: unknown. Choose one of {', '.join(map(repr, PROTOCOLS))}.")
    return PROTOCOLS[name](tokenizer, vocabulary)

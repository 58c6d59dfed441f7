# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Token ids as bytes: every token contributes its own bytes, so a token may span the border of two structures.

Three byte values that never occur in UTF-8 stand for tokens that are not text: `COORDINATE`, `FOREIGN` (any other
special token and every id the tokenizer does not know) and `END`. Where a broken text token carries one of them as an
ordinary byte, it is replaced by a fourth invalid byte, so the three stay unambiguous and the text stays invalid.
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

TokenIds = Sequence[int] | np.ndarray | torch.Tensor
Range = tuple[int, int]

COORDINATE, FOREIGN, END = b"\xff", b"\xfe", b"\xfd"
_INVALID = 0xFC

# Byte-level BPE writes every byte as one printable character. Latin-1 characters outside that alphabet are sent out of
# Latin-1, so that encoding them fails instead of passing for a byte.
_CHARACTER_TO_BYTE = dict.fromkeys(range(256), "\u0100") | {
    ord(character): chr(byte if byte < END[0] else _INVALID) for byte, character in bytes_to_unicode().items()
}
_PROBE = ' Two words,\n{"a": [1]}</b> \u00e9\u9ed1\u732b\U0001f642'


class _Table(dict):
    """Token id to bytes; an id that is not in the tokenizer is foreign."""

    def __missing__(self, token_id: int) -> bytes:
        return FOREIGN


@dataclass(frozen=True, slots=True)
class ByteView:
    """
    A completion as bytes, up to its end token.

    Args:
        data (`bytes`):
            The bytes of the tokens before the end token.
        ends (`list[int]`):
            For each token before the end token, the position in `data` just after it.
        coordinates (`tuple[int, ...]`):
            Positions of the coordinate tokens; the i-th belongs to the i-th `COORDINATE` byte of `data`.
        bins (`tuple[int, ...]`):
            Their bins.
        ended (`bool`):
            Whether there was an end token.
    """

    data: bytes
    ends: list[int]
    coordinates: tuple[int, ...]
    bins: tuple[int, ...]
    ended: bool

    def spans(self, start: int, end: int, inner_start: int, inner_end: int) -> tuple[Range, Range]:
        """
        Returns the token ranges of the bytes `[start, end)` and of the bytes `[inner_start, inner_end)` inside them,
        tokens at the borders included.
        """
        ends = self.ends
        first, last = bisect_right(ends, start), bisect_left(ends, end) + 1
        inner = bisect_right(ends, inner_start, first, last), bisect_left(ends, inner_end, first, last) + 1
        return (first, last), inner


class TokenBytes:
    """
    The bytes of every token of one byte-level tokenizer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A byte-level BPE tokenizer, as Qwen's.
        coordinate_ids (`Sequence[int]`):
            Ids of the coordinate tokens, by bin.
        end_ids (`Iterable[int]`):
            Ids that end a completion.

    Raises:
        `ValueError`: if the tokenizer is not byte-level, or does not keep the text as it is.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, coordinate_ids: Sequence[int], end_ids: Iterable[int]
    ) -> None:
        self._bins = {token_id: k for k, token_id in enumerate(coordinate_ids)}
        self._table = _Table(_text_table(tokenizer))
        self._table.update(dict.fromkeys(end_ids, END))
        self._table.update(dict.fromkeys(coordinate_ids, COORDINATE))
        if self.join(tokenizer(_PROBE, add_special_tokens=False)["input_ids"]) != _PROBE.encode():
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}): the bytes of its tokens do not "
                "spell the text. Protocols need a byte-level BPE tokenizer that keeps text as it is, as Qwen3-VL's."
            )

    def join(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of `ids`, nothing cut."""
        return b"".join(map(self._table.__getitem__, ids))

    def view(self, ids: TokenIds) -> ByteView:
        """
        Returns the bytes of a completion up to its end token; linear in the number of tokens.

        Raises:
            `ValueError`: if `ids` has more than one dimension.
            `TypeError`: if an element is not an integer.
        """
        ids = _as_list(ids)
        pieces = list(map(self._table.__getitem__, ids))
        data = b"".join(pieces)
        ends = list(accumulate(map(len, pieces)))
        cut = data.find(END)
        ended = cut >= 0
        if ended:
            data = data[:cut]
            length = bisect_right(ends, cut)
            del ends[length:], pieces[length:]
        coordinates = tuple([position for position, piece in enumerate(pieces) if piece is COORDINATE])
        bins = tuple([self._bins[ids[position]] for position in coordinates])
        return ByteView(data, ends, coordinates, bins, ended)


def _as_list(ids: TokenIds) -> list[int]:
    if isinstance(ids, (np.ndarray, torch.Tensor)):
        if ids.ndim != 1:
            raise ValueError(f"ids: need one completion of shape (length,), got {tuple(ids.shape)}. Parse row by row.")
        ids = ids.tolist()
    if set(map(type, ids)) <= {int}:
        return list(ids)
    return [operator.index(token_id) for token_id in ids]


def _text_table(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Returns the bytes of the text tokens; special tokens are left out."""
    table = {}
    for token, token_id in tokenizer.get_vocab().items():
        try:
            table[token_id] = token.translate(_CHARACTER_TO_BYTE).encode("latin-1")
        except UnicodeEncodeError:  # not a token of the byte-level model
            continue
    special_ids = set(tokenizer.all_special_ids)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        table.pop(token_id, None)
        if not token.special and token_id not in special_ids:
            table[token_id] = token.content.encode()
    return table

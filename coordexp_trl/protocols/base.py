# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What all protocols share: writing a set of objects as tokens, and reading tokens back as objects.

Writing goes by *gaps*. Coordinate tokens always split the text, so the text between the last slot of one object and
the first slot of the next is tokenised alone, once, and remembered.

Reading never decodes and re-encodes. It works on the bytes of the tokens: the openings of objects cut the bytes into
segments, each segment is read once and holds at most one object. A malformed object therefore never takes its
neighbours with it, and any input is read in linear time.
"""

import numbers
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from coordexp_trl.coordinates import COORD_TOKEN, CoordVocabulary, shorten
from coordexp_trl.protocols.parsed import EncodedObjects, ParsedCompletion, ParsedObject, is_arity
from coordexp_trl.protocols.token_bytes import COORDINATE, END, FOREIGN, TokenBytes, TokenIds
from coordexp_trl.records import DetectionObject

UNCLOSED = -1
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")
_GAP_CACHE_SIZE = 1 << 14


# What stands at the opening of an object: the byte position just after it or `UNCLOSED`, and either its description
# with the byte range that holds it and its number of coordinates, or the reason why it is dropped. A plain tuple, one
# is made for every object.
Reading = tuple[int, tuple[str, int, int, int] | None, str | None]


class Protocol(ABC):
    """
    A way of writing a set of objects, boxes and polygons, as text in which each coordinate is one token.

    A description can be written if it reads back as it was. It is refused if it is blank, is not valid Unicode,
    contains a special token of the tokenizer (coordinate tokens and `<|im_end|>` among them), or is changed by the
    tokenizer's Unicode normalisation (NFC for Qwen). Anything else is kept to the letter, with its case, its line
    breaks and its outer spaces; a protocol may refuse more.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A byte-level BPE tokenizer with coordinate tokens.
        vocabulary ([`CoordVocabulary`], *optional*):
            Its coordinate tokens. Defaults to `CoordVocabulary.from_tokenizer(tokenizer)`, 1000 bins.

    Attributes:
        name (`str`):
            Name of the protocol.
        end_ids (`frozenset[int]`):
            Ids that end a completion: the tokenizer's end and padding tokens, `<|im_end|>` and `<|endoftext|>`.
        separator_ids (`list[int]`):
            Tokens between two consecutive coordinates of an object.

    Raises:
        `ValueError`: if the tokenizer is not a byte-level tokenizer or has no coordinate tokens.
    """

    name: ClassVar[str]
    _separator: ClassVar[str]
    _opening: ClassVar[re.Pattern[bytes]]  # every match begins an object, and none occurs inside a complete object

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: CoordVocabulary | None = None) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"tokenizer = {type(tokenizer).__name__}: must be a transformers tokenizer. Of a processor pass "
                "`processor.tokenizer`."
            )
        self.tokenizer = tokenizer
        self.vocabulary = CoordVocabulary.from_tokenizer(tokenizer) if vocabulary is None else vocabulary
        self.end_ids = _end_ids(tokenizer)
        self._ids_of_bins = self.vocabulary.ids.tolist()
        self._bytes = TokenBytes(tokenizer, self._ids_of_bins, self.end_ids)
        self._gap = lru_cache(_GAP_CACHE_SIZE)(self._tokenize_gap)
        self.separator_ids = self._tokenize(self._separator)
        self._check_tokenizer()

    def __reduce__(self):  # the cache cannot be pickled, and data loader workers rebuild it anyway
        return type(self), (self.tokenizer, self.vocabulary)

    # Writing

    def serialize(self, objects: Iterable[DetectionObject]) -> str:
        """
        Writes objects as text.

        Args:
            objects (`Iterable[DetectionObject]`):
                Objects, of which `desc` and `bins` are used (four for a box, an even number of at least six for a
                polygon), in the order in which they are written.

        Returns:
            `str`: the text, without an end token.

        Raises:
            `ValueError`: if a description or its bins cannot be written, see [`Protocol.encode`].
        """
        parts, first, after_polygon = [], True, False
        for item in objects:
            bins = self._checked_bins(item)
            polygon = len(bins) > 4
            tokens = [COORD_TOKEN.format(k) for k in bins]
            parts += [self._gap(item.desc, first, polygon, after_polygon)[0], self._separator.join(tokens)]
            first, after_polygon = False, polygon
        return "".join([*parts, self._gap(None, first, False, after_polygon)[0]])

    def encode(self, objects: Iterable[DetectionObject]) -> list[int]:
        """
        Writes objects as token ids: those that the tokenizer gives for [`Protocol.serialize`] without special tokens.

        Args:
            objects (`Iterable[DetectionObject]`):
                Objects, of which `desc` and `bins` are used, as in [`Protocol.serialize`].

        Returns:
            `list[int]`: token ids, without an end token.

        Raises:
            `ValueError`: if a description cannot be written (see [`Protocol`]), or an object does not have the bins
                of a box or a polygon, all of them in the vocabulary.
        """
        return self.encode_with_slots(objects).ids

    def encode_with_slots(self, objects: Iterable[DetectionObject]) -> EncodedObjects:
        """As [`Protocol.encode`], together with the positions of each object's coordinate tokens."""
        ids: list[int] = []
        slots, first, after_polygon = [], True, False
        step = 1 + len(self.separator_ids)
        for item in objects:
            bins = self._checked_bins(item)
            polygon = len(bins) > 4
            ids += self._gap(item.desc, first, polygon, after_polygon)[1]
            slots.append(tuple(range(len(ids), len(ids) + len(bins) * step, step)))
            for index, k in enumerate(bins):
                if index:
                    ids += self.separator_ids
                ids.append(self._ids_of_bins[k])
            first, after_polygon = False, polygon
        ids += self._gap(None, first, False, after_polygon)[1]
        return EncodedObjects(ids, slots)

    def gap_ids(self, desc: str | None, first: bool, polygon: bool = False, after_polygon: bool = False) -> list[int]:
        """
        Returns the tokens between the last slot of one object and the first slot of the next.

        Args:
            desc (`str` or `None`):
                Description of the next object; `None` if the set ends here.
            first (`bool`):
                Whether no object comes before. With `desc=None` this gives the whole empty set.
            polygon (`bool`, *optional*, defaults to `False`):
                Whether the next object is a polygon rather than a box.
            after_polygon (`bool`, *optional*, defaults to `False`):
                Whether the object before is one.

        Returns:
            `list[int]`: token ids, which may be changed by the caller.

        Raises:
            `ValueError`: if the description cannot be written, see [`Protocol`].
        """
        return list(self._gap(desc, first, polygon, after_polygon)[1])

    def _tokenize_gap(
        self, desc: str | None, first: bool, polygon: bool, after_polygon: bool
    ) -> tuple[str, list[int]]:
        if desc is None:
            text = self._gap_text(None, first, polygon, after_polygon)
            return text, self._tokenize(text)
        if not desc.strip():
            self._refuse(desc, "it is blank", "Describe the object or leave it out")
        try:
            desc.encode()
        except UnicodeEncodeError:
            self._refuse(desc, "it is not valid Unicode (lone surrogate)", "Repair the encoding of the source")
        text = self._gap_text(desc, first, polygon, after_polygon)
        ids = self._tokenize(text)
        spelt = self._bytes.join(ids)
        if spelt != text.encode():
            if any(mark in spelt for mark in (COORDINATE, FOREIGN, END)):
                self._refuse(desc, "it contains a special token of the tokenizer", "Remove or rewrite that part")
            remedy = "Store it as unicodedata.normalize('NFC', desc), or without a leading combining character"
            self._refuse(desc, "the tokenizer normalises it to other characters", remedy)
        return text, ids

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _checked_bins(self, item: DetectionObject) -> tuple[int, ...]:
        if not isinstance(item.desc, str):
            self._refuse(item.desc, "it is not a string", "Describe the object or leave it out")
        bins = item.bins
        if bins is None or not is_arity(len(bins), polygon=len(bins) > 4):
            raise ValueError(
                f"bins = {shorten(bins)} of object {shorten(item.desc)}: need the four bins x1, y1, x2, y2 of a box, "
                "or an even number of at least six of a polygon. Make them of pixels with "
                "DetectionObject.box_bins(width, height, grid) or CoordinateGrid.points_to_bins."
            )
        for k in bins:
            if not isinstance(k, numbers.Integral) or not 0 <= k < self.vocabulary.num_bins:
                raise ValueError(
                    f"bins = {shorten(bins)} of object {shorten(item.desc)}: {k!r} is not a bin in "
                    f"0..{self.vocabulary.num_bins - 1}. Quantise pixels with CoordinateGrid.pixels_to_bins."
                )
        return bins

    def _refuse(self, desc: object, problem: str, remedy: str) -> None:
        raise ValueError(
            f"desc = {shorten(desc)}: cannot be written in the {self.name!r} protocol: {problem}. {remedy}."
        )

    def _check_tokenizer(self) -> None:
        sample = [DetectionObject(desc="black cat", bins=bins) for bins in ((0, 1) * 2, (0, 1) * 3, (0, 1) * 2)]
        text = "".join(self._gap_text("black cat", not k, k == 1, k == 2) for k in range(3))
        is_text = self._bytes.join(self._tokenize(text)) == text.encode()
        if not is_text or self.encode(sample) != self._tokenize(self.serialize(sample)):
            raise ValueError(
                f"tokenizer {self.tokenizer.name_or_path!r}: text beside coordinate tokens is not tokenised alone, or "
                f"the structure of the {self.name!r} protocol consists of special tokens. Add coordinate tokens with "
                "`coordexp expand-vocab` (lstrip, rstrip and normalized off) and no structure tokens."
            )

    # Reading

    def parse(self, ids: TokenIds) -> ParsedCompletion:
        """
        Reads the objects of a completion.

        Objects are returned in order of appearance, exactly as written. What is malformed is dropped and counted by
        reason, nothing is repaired, and no sequence of integers raises. Linear time.

        Args:
            ids (`list`, `tuple`, `numpy.ndarray` or `torch.Tensor`):
                Token ids of shape `(length,)`; the first end token ends the completion, ids after it are ignored.

        Returns:
            [`ParsedCompletion`]: the objects with their slots and spans, the drops and the way it ended.
        """
        view = self._bytes.view(ids)
        data = view.data
        objects, dropped, truncated = [], Counter(), False
        starts = [match.start() for match in self._opening.finditer(data)]
        position: int | None = 0  # end of the object before; None if it was not closed, so that no gap follows it
        counted = rank = 0  # `rank` coordinates stand before byte `counted`
        for start, stop in pairwise([*starts, len(data)]):
            if position is not None and not self._is_gap(data[position:start], first=start == starts[0]):
                dropped["stray"] += 1
            end, read, reason = self._read(data, start, stop)
            position = None if end == UNCLOSED else end
            if end == UNCLOSED:
                if start != starts[-1]:
                    dropped["nested"] += 1
                elif view.ended:
                    dropped["incomplete"] += 1
                else:
                    truncated = True
            elif reason is not None:
                dropped[reason] += 1
            else:
                rank += data.count(COORDINATE, counted, start)
                counted = start
                desc, desc_start, desc_end, size = read
                own = slice(rank, rank + size)
                span, desc_span = view.spans(start, end, desc_start, desc_end)
                objects.append(ParsedObject(desc, view.bins[own], view.coordinates[own], span, desc_span))
        if position is not None:
            reasons, truncated = self._read_tail(data[position:], first=not starts, ended=view.ended)
            dropped.update(reasons)
        return ParsedCompletion(objects, dict(dropped), truncated, view.ended, len(view.ends))

    # What a protocol defines

    @abstractmethod
    def _gap_text(self, desc: str | None, first: bool, polygon: bool, after_polygon: bool) -> str:
        """The text of [`Protocol.gap_ids`]; refuses descriptions that the protocol cannot write."""

    @abstractmethod
    def _read(self, data: bytes, start: int, stop: int) -> Reading:
        """Reads the object that opens at `start`; the next one opens at `stop`. Linear in `stop - start`."""

    @abstractmethod
    def _is_gap(self, text: bytes, first: bool) -> bool:
        """Whether `text` is what the protocol writes between two objects, or before the first one."""

    @abstractmethod
    def _read_tail(self, text: bytes, first: bool, ended: bool) -> tuple[list[str], bool]:
        """Judges the text after the last object (`first`: there was none): drop reasons, and whether it was cut."""


def _end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    vocabulary = tokenizer.get_vocab()
    ids = {tokenizer.eos_token_id, tokenizer.pad_token_id, *(vocabulary.get(token) for token in _END_TOKENS)}
    return frozenset(ids - {None})

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What writing and reading a completion returns."""

from dataclasses import dataclass
from typing import NamedTuple

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.records import enclosing_box

# Everything that is not read is counted under one of these. Each object that opens is either returned, or dropped
# under exactly one of the object reasons, or is the truncated tail.
OBJECT_DROP_REASONS = {
    "missing_desc": "the object does not begin with its description",
    "empty_desc": "the description is blank",
    "bad_desc": "the description is not text: invalid UTF-8, a special or coordinate token in it, a bad JSON string",
    "missing_box": "neither a box nor a polygon follows the description",
    "wrong_arity": "a box does not hold four coordinate tokens, or a polygon not an even number of at least six",
    "text_in_box": "box or polygon holds something else, or its coordinate tokens are separated in another way",
    "extra_text": "something stands between box or polygon and the end of the object",
    "nested": "another object, description or box opens inside the object",
    "incomplete": "the end token came inside the object",
}
SET_DROP_REASONS = {
    "stray": "a run of text or coordinate tokens outside any object that the protocol does not write there",
    "unclosed": "the end token came before the set was closed",
}
DROP_REASONS = OBJECT_DROP_REASONS | SET_DROP_REASONS


def is_arity(count: int, polygon: bool) -> bool:
    """Whether a polygon, or a box, can have this number of coordinates."""
    return count >= 6 and count % 2 == 0 if polygon else count == 4


class EncodedObjects(NamedTuple):
    """
    A set of objects as tokens.

    Args:
        ids (`list[int]`):
            Token ids, without an end token.
        slots (`list[tuple[int, ...]]`):
            For each object the positions of its coordinate tokens in `ids`.
    """

    ids: list[int]
    slots: list[tuple[int, ...]]


@dataclass(slots=True)
class ParsedObject:
    """
    One complete object of a completion. All positions are token positions in the completion.

    Args:
        desc (`str`):
            The description exactly as written.
        bins (`tuple[int, ...]`):
            The coordinates in bins, as written: four of a box, which may be inverted or have no area, or the
            x1, y1, x2, y2, ... of a polygon, at least six, which may cross itself or have no area.
        slots (`tuple[int, ...]`):
            Position of each of its coordinate tokens.
        span (`tuple[int, int]`):
            Range `[start, end)` of the tokens that hold the object. A token on the border of two objects belongs to
            both.
        desc_span (`tuple[int, int]`):
            Range `[start, end)` of the tokens that hold the description, those on its borders included.
    """

    desc: str
    bins: tuple[int, ...]
    slots: tuple[int, ...]
    span: tuple[int, int]
    desc_span: tuple[int, int]

    @property
    def is_polygon(self) -> bool:
        """Whether the object is a polygon rather than a box."""
        return len(self.bins) > 4

    @property
    def valid_geometry(self) -> bool:
        """Whether `x2 > x1` and `y2 > y1` in the box, or in the enclosing box of the polygon."""
        x1, y1, x2, y2 = enclosing_box(self.bins)
        return x2 > x1 and y2 > y1

    def box_bins(self, grid: CoordinateGrid) -> tuple[int, int, int, int]:
        """The box in bins: as written, or a polygon's enclosing box, never collapsed."""
        if len(self.bins) == 4:
            return self.bins
        return tuple(grid.widen_collapsed([enclosing_box(self.bins)])[0].tolist())


@dataclass(slots=True)
class ParsedCompletion:
    """
    A completion as read by [`Protocol.parse`].

    Args:
        objects (`list[ParsedObject]`):
            The complete objects in order of appearance.
        dropped (`dict[str, int]`):
            What was dropped, counted by the reasons of `DROP_REASONS`; reasons that did not occur are absent.
        truncated (`bool`):
            Whether the tokens ran out, without an end token, inside an object or before the set was closed. The `tags`
            protocol does not close its set: there it means inside an object, or inside its opening tag.
        ended (`bool`):
            Whether an end token was met.
        length (`int`):
            Number of tokens before the end token.
    """

    objects: list[ParsedObject]
    dropped: dict[str, int]
    truncated: bool
    ended: bool
    length: int

    def boxes(self, grid: CoordinateGrid) -> list[tuple[int, int, int, int]]:
        """The box of each object in bins, see [`ParsedObject.box_bins`]."""
        return [item.box_bins(grid) for item in self.objects]

    @property
    def complete_end(self) -> int:
        """Token position just after the last complete object; 0 if there is none."""
        return self.objects[-1].span[1] if self.objects else 0

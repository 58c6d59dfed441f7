# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The `tags` protocol: `<obj><desc>black cat</desc><box>…</box></obj>`, repeated; the empty set is the empty text.

A polygon stands between `<poly>` and `</poly>` instead.
"""

import re

from coordexp_trl.protocols.base import UNCLOSED, Protocol, Reading
from coordexp_trl.protocols.parsed import is_arity
from coordexp_trl.protocols.token_bytes import COORDINATE

_OBJECT, _OBJECT_END = b"<obj>", b"</obj>"
_DESC, _DESC_END = b"<desc>", b"</desc>"
_BOX, _BOX_END = b"<box>", b"</box>"
_POLYGON, _POLYGON_END = b"<poly>", b"</poly>"
_TAG = re.compile(rb"</?(?:obj|desc|box|poly)>")
_WHOLE_BOX = _BOX + COORDINATE * 4 + _BOX_END


class TagsProtocol(Protocol):
    """
    Objects between tags, without anything between them.

    ```text
    <obj><desc>black cat</desc><box><|coord_110|><|coord_310|><|coord_410|><|coord_705|></box></obj>
    <obj><desc>kite</desc><poly><|coord_500|><|coord_20|><|coord_560|><|coord_90|><|coord_480|><|coord_80|></poly></obj>
    ```

    White space between the tags, as between these two objects, is no part of the protocol. Besides what [`Protocol`]
    refuses, a description must not contain one of the eight tags; any other `<` or `>` is fine.
    """

    name = "tags"
    _separator = ""
    _opening = re.compile(_OBJECT)

    def _gap_text(self, desc: str | None, first: bool, polygon: bool, after_polygon: bool) -> str:
        close = "" if first else f"</{'poly' if after_polygon else 'box'}></obj>"
        if desc is None:
            return close
        if _TAG.search(desc.encode()):
            self._refuse(desc, "it contains a structure tag", "Rewrite that part, or use the 'json' protocol")
        return f"{close}<obj><desc>{desc}</desc><{'poly' if polygon else 'box'}>"

    def _read(self, data: bytes, start: int, stop: int) -> Reading:
        close = data.find(_OBJECT_END, start, stop)
        if close < 0:
            return UNCLOSED, None, None
        end = close + len(_OBJECT_END)
        desc_start = start + len(_OBJECT) + len(_DESC)
        desc_end = data.find(_DESC_END, desc_start, close)
        if not data.startswith(_DESC, start + len(_OBJECT)) or desc_end < 0:
            return end, None, "missing_desc"
        raw = data[desc_start:desc_end]
        if b"<" in raw and _TAG.search(raw):
            return end, None, "nested"
        try:
            desc = raw.decode()
        except UnicodeDecodeError:
            return end, None, "bad_desc"
        if not desc.strip():
            return end, None, "empty_desc"
        box = desc_end + len(_DESC_END)
        if data.startswith(_WHOLE_BOX, box) and box + len(_WHOLE_BOX) == close:  # what nearly all objects have
            return end, (desc, desc_start, desc_end, 4), None
        polygon = data.startswith(_POLYGON, box)
        opening, closing = (_POLYGON, _POLYGON_END) if polygon else (_BOX, _BOX_END)
        box_start = box + len(opening)
        box_end = data.find(closing, box_start, close)
        if not data.startswith(opening, box) or box_end < 0:
            return end, None, "missing_box"
        content = data[box_start:box_end]
        if content.strip(COORDINATE):
            return end, None, "nested" if _TAG.search(content) else "text_in_box"
        if not is_arity(len(content), polygon):
            return end, None, "wrong_arity"
        if box_end + len(closing) != close:
            return end, None, "extra_text"
        return end, (desc, desc_start, desc_end, len(content)), None

    def _is_gap(self, text: bytes, first: bool) -> bool:
        return not text

    def _read_tail(self, text: bytes, first: bool, ended: bool) -> tuple[list[str], bool]:
        # Without an end token, text that ends in the beginning of `<obj>` was cut inside the opening of an object.
        cut = 0 if ended else next((size for size in range(4, 0, -1) if text.endswith(_OBJECT[:size])), 0)
        return ["stray"] if len(text) > cut else [], cut > 0

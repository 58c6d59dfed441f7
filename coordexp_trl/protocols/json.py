# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The `json` protocol: `{"objects": [{"desc": "black cat", "bbox_2d": […]}]}`; the empty set is `{"objects": []}`.

A polygon has the key `poly` instead of `bbox_2d`.
"""

import json
import re
from functools import lru_cache

from coordexp_trl.protocols.base import UNCLOSED, Protocol, Reading
from coordexp_trl.protocols.parsed import is_arity
from coordexp_trl.protocols.token_bytes import COORDINATE

_SPACE = b" \t\n\r"
_SET, _SET_END, _COMMA = b'{"objects":[', b"]}", b","
_OBJECT = b'{"desc":'


def _compile(pattern: bytes) -> re.Pattern[bytes]:
    """Compiles a pattern in which a blank stands for insignificant white space."""
    return re.compile(pattern.replace(b" ", b"[" + _SPACE + b"]*"), re.DOTALL)


# Each repetition is followed by something it cannot match itself, so a failing match gives up in linear time.
_PARTS = rb'{ "desc" : ', rb'("[^"\\]*(?:\\.[^"\\]*)*")', rb' , "%s" : \['
_COMPLETE = _compile(b"".join(_PARTS) % b"bbox_2d" + b" " + b" , ".join([COORDINATE] * 4) + rb" \] }")
_COMPLETE_POLYGON = _compile(b"".join(_PARTS) % b"poly" + b" (%s(?: , %s)*+) " % (COORDINATE, COORDINATE) + rb"\] }")
_HEAD, _STRING, _BOX = map(_compile, (*_PARTS[:2], _PARTS[2] % b"(bbox_2d|poly)"))


@lru_cache(1 << 12)
def _read_string(literal: bytes) -> str | None:
    """Reads a JSON string; `None` for invalid UTF-8, a bad escape, a control character, an escaped lone surrogate."""
    try:
        text = json.loads(literal.decode())
        text.encode()
    except ValueError:
        return None
    return text


class JsonProtocol(Protocol):
    """
    One JSON object with a list of objects; a coordinate is a bare coordinate token.

    ```text
    {"objects": [{"desc": "black cat", "bbox_2d": [<|coord_110|>, <|coord_310|>, <|coord_410|>, <|coord_705|>]},
    {"desc": "kite", "poly": [<|coord_500|>, <|coord_20|>, <|coord_560|>, <|coord_90|>, <|coord_480|>, <|coord_80|>]}]}
    ```

    Descriptions are JSON strings (`json.dumps` with `ensure_ascii=False`). Reading tolerates the white space that JSON
    does, and no other keys and no other order of keys. It refuses no more descriptions than [`Protocol`] does.
    """

    name = "json"
    _separator = ", "
    # `{` and an unescaped quote: inside a string that quote would end it, and no key and colon could follow.
    _opening = _compile(rb'{ "(?!objects")\w*" :')

    def _gap_text(self, desc: str | None, first: bool, polygon: bool, after_polygon: bool) -> str:
        if desc is None:
            return '{"objects": []}' if first else "]}]}"
        opening = '{"objects": [' if first else "]}, "
        return f'{opening}{{"desc": {json.dumps(desc, ensure_ascii=False)}, "{"poly" if polygon else "bbox_2d"}": ['

    def _read(self, data: bytes, start: int, stop: int) -> Reading:
        complete, size = _COMPLETE.match(data, start, stop), 4
        if complete is None:
            polygon = _COMPLETE_POLYGON.match(data, start, stop)
            if polygon is not None and is_arity(polygon[2].count(COORDINATE), polygon=True):
                complete, size = polygon, polygon[2].count(COORDINATE)
        if complete is not None:
            desc = _read_string(complete[1])
            if desc is None or not desc.strip():
                return complete.end(), None, "bad_desc" if desc is None else "empty_desc"
            desc_start, desc_end = complete.span(1)  # with the quotes
            return complete.end(), (desc, desc_start + 1, desc_end - 1, size), None
        reason, position = _diagnose(data, start, stop)
        # A malformed object reaches to the next brace after the place where it went wrong.
        brace = data.find(b"}", position, stop)
        return UNCLOSED if brace < 0 else brace + 1, None, reason

    def _is_gap(self, text: bytes, first: bool) -> bool:
        return text.translate(None, _SPACE) == (_SET if first else _COMMA)

    def _read_tail(self, text: bytes, first: bool, ended: bool) -> tuple[list[str], bool]:
        text = text.translate(None, _SPACE)
        close, more = (_SET + _SET_END, _SET + _OBJECT) if first else (_SET_END, _COMMA + _OBJECT)
        reasons = [] if close.startswith(text) or more.startswith(text) else ["stray"]
        closed = _SET_END in text
        if ended and not closed:
            reasons.append("unclosed")
        return reasons, not (ended or closed)


def _diagnose(data: bytes, start: int, stop: int) -> tuple[str, int]:
    """Returns why the object that opens at `start` is not complete, and the place where it went wrong."""
    head = _HEAD.match(data, start, stop)
    if head is None:
        return "missing_desc", start
    string = _STRING.match(data, head.end(), stop)
    if string is None:
        # A string that does not end swallows the rest, braces too.
        return "bad_desc", stop if data.startswith(b'"', head.end(), stop) else head.end()
    desc = _read_string(string[0])
    if desc is None or not desc.strip():
        return "bad_desc" if desc is None else "empty_desc", string.end()
    box = _BOX.match(data, string.end(), stop)
    if box is None:
        return "missing_box", string.end()
    box_end = data.find(b"]", box.end(), stop)
    content = data[box.end() : box_end].translate(None, _SPACE)
    coordinates = [COORDINATE] * content.count(COORDINATE)
    if box_end < 0 or content != b",".join(coordinates):
        return "text_in_box", box.end()
    fits = is_arity(len(coordinates), polygon=box[1] == b"poly")
    return ("extra_text", box_end) if fits else ("wrong_arity", box.end())

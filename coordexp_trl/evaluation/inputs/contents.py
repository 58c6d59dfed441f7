# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tells files apart by what they hold: a JSON value, or one JSON object a line."""

import hashlib
import json
from pathlib import Path
from typing import Any

from coordexp_trl.datasets.conversion import read_json
from coordexp_trl.records import iter_lines

JSON_LINES = object()  # in place of a value: a file with one JSON object a line


def read_content(path: str | Path, option: str) -> Any:
    """
    Reads a file if it is one JSON value.

    Args:
        path (`str` or `Path`):
            The file.
        option (`str`):
            Name of the option that gave it, for messages.

    Returns:
        The value, a single line of JSON lines included; `JSON_LINES` for a file of several lines, each a value; `None`
        for a file without content.

    Raises:
        `ValueError`: if the file cannot be read or is not JSON.
    """
    if not Path(path).is_file():
        raise ValueError(f"{option} = {str(path)!r}: no such file.")
    lines = iter_lines(path)
    _, _, first = next(lines, (0, 0, b""))
    is_single = next(lines, None) is None
    lines.close()
    if not first:
        return None
    try:
        value = json.loads(first.decode("utf-8"))
    except (ValueError, RecursionError):
        return read_json(path, option)  # over several lines, or wrong: then the message names the place
    return value if is_single else JSON_LINES


def is_line(value: Any) -> bool:
    """Whether a value can be a record or a prediction, rather than a file of annotations."""
    return isinstance(value, dict) and "objects" in value and "annotations" not in value


def file_digest(path: str | Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading and writing the JSONL files of other tools, and checking the fields that converters read."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.records import iter_lines


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict]]:
    """
    Yields the JSON objects of a file and their places.

    Args:
        path (`str` or `Path`):
            The file: UTF-8, one JSON object a line; blank lines are skipped.

    Yields:
        `tuple[str, dict]`: place, such as `"train.jsonl:12"`, and object.

    Raises:
        `ValueError`: if the file is missing or empty, or a line is not UTF-8 or no JSON object.
    """
    place = None
    for number, _, line in iter_lines(path):
        place = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: byte {error.start + 1} is not UTF-8. Save the file in UTF-8.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: invalid JSON ({error}). Write one JSON object a line.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: the line is not a JSON object: {shorten(row)}. Write one JSON object a line.")
        yield place, row
    if place is None:
        raise ValueError(f"{path}: the file is empty. Write one JSON object a line.")


def write_json_lines(rows: Iterable[Any], path: str | Path) -> int:
    """Writes values as JSON, one a line, and returns their number. The file appears complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def need(row: dict, key: str, kind: type, before: str) -> Any:
    """Returns `row[key]`; raises `ValueError` if it is missing or of another type, with its place `before` the key."""
    value = row.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {dict: "a JSON object", list: "a list", str: "text", int: "an integer"}
        shown = f" = {shorten(value)}" if key in row else ""
        raise ValueError(f"{before}{key}{shown}: must be {names[kind]}.")
    return value


def box_numbers(values: Any, place: str) -> tuple[float, ...]:
    """Returns four numbers, finite or not; raises `ValueError` naming the place for anything else."""
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError(f"{place} = {shorten(values)}: must be a list of four numbers x1, y1, x2, y2.")
    return tuple(number(value, place) for value in values)


def number(value: Any, place: str) -> float:
    """Returns a JSON number as float; raises `ValueError` naming the place for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{place}: {shorten(value)} is no number.")
    try:
        return float(value)
    except OverflowError:
        return float("inf")

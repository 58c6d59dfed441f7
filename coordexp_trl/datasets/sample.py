# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Draws a fixed random subset of a file."""

import random
from pathlib import Path

from tqdm.auto import tqdm

from coordexp_trl.datasets.relocation import check_out, relocate
from coordexp_trl.records import iter_lines, parse_record, write_records


def sample_records(
    data: str | Path,
    num: int,
    out: str | Path | None = None,
    seed: int = 0,
    image_root: str | Path | None = None,
    show_progress: bool = True,
) -> Path:
    """
    Writes `num` records of a file, drawn without replacement, in the order of the file.

    Reads the file once and holds the drawn records alone in memory (reservoir sampling: Vitter 1985, algorithm R).
    Only these are validated.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or bins.
        num (`int`):
            Number of records, at most those of the file.
        out (`str` or `Path`, *optional*):
            File to write. Defaults to `a_sample.jsonl` beside `a.jsonl`.
        seed (`int`, *optional*, defaults to `0`):
            Seed; the same seed, number and file give the same records.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `Path`: the file written.

    Raises:
        `ValueError`: if a record is wrong, or the file has fewer than `num` records.
    """
    data = Path(data)
    out = data.with_name(_with_ending(data.name, "_sample")) if out is None else Path(out)
    if num < 1:
        raise ValueError(f"num = {num!r}: must be at least 1.")
    check_out(data, out)
    root = data.parent if image_root is None else Path(image_root)
    rng = random.Random(seed)
    reservoir: list[tuple[int, bytes]] = []  # lines by number
    count = 0
    lines = tqdm(iter_lines(data), desc="Sampling", unit="record", disable=not show_progress)
    for count, (number, _, line) in enumerate(lines, start=1):
        if len(reservoir) < num:
            reservoir.append((number, line))
        elif (slot := rng.randrange(count)) < num:
            reservoir[slot] = (number, line)
    if count < num:
        raise ValueError(f"num = {num}: {data} has only {count} records. Ask for at most as many.")
    reservoir.sort()
    records = (parse_record(line, root, f"{data}:{number}") for number, line in reservoir)
    write_records((relocate(record, out) for record in records), out)
    return out


def _with_ending(name: str, ending: str) -> str:
    """`a_sample.coord.jsonl` for `a.coord.jsonl`: what says how a file is written stays at its end."""
    stem, dot, suffixes = name.partition(".")
    return f"{stem}{ending}{dot}{suffixes}"

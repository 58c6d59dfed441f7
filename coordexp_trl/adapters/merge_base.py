# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Is a base that the user names the one that the adapter was trained on?"""

from pathlib import Path

import torch
from safetensors import safe_open

from coordexp_trl.checkpoint_files import Weights

_SAMPLED_ROWS = 8  # of each tensor


def check_same_base(base: Path, named: str | None) -> None:
    """
    Args:
        base (`Path`):
            Folder of the base that is merged into.
        named (`str`, *optional*):
            The base that the adapter names. Where it is not here, nothing can be compared.

    Raises:
        `ValueError`: If both are here and differ in a shape, or in weights by more than another precision.
    """
    own = None if named is None else Path(named).expanduser()
    if own is None or not (own / "config.json").is_file() or own.samefile(base):
        return
    difference = _first_difference(Weights.read(own, "base of the adapter"), own, Weights.read(base, "base"), base)
    if difference:
        raise ValueError(
            f"base = {str(base)!r}: the adapter was trained on {named!r}, and {difference} differs there. Leave "
            "--base out, or name a copy of that checkpoint."
        )


def _first_difference(one: Weights, one_folder: Path, other: Weights, other_folder: Path) -> str | None:
    """The first tensor in which two checkpoints differ, by shapes and some rows."""
    for name in sorted(one.shapes.keys() | other.shapes.keys()):
        if one.shapes.get(name) != other.shapes.get(name):
            return name
    for name in sorted(one.shapes):
        if 0 in one.shapes[name] or not one.shapes[name]:
            continue
        pair = []
        for weights, folder in ((one, one_folder), (other, other_folder)):
            with safe_open(folder / weights.places[name], "pt") as file:
                matrix = file.get_slice(name)
                count = weights.shapes[name][0]
                step = max(1, count // _SAMPLED_ROWS)
                pair.append(torch.cat([matrix[row : row + 1].float().flatten() for row in range(0, count, step)]))
        if not torch.allclose(*pair, rtol=0.01, atol=1e-6):
            return name
    return None

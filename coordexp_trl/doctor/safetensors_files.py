# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What safetensors files hold, read from their headers alone."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SAMPLED_ROWS = 1000  # of a matrix
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """
    A tensor of a file.

    Args:
        file (`Path`):
            The file.
        name (`str`):
            Its name there.
        shape (`tuple[int, ...]`):
            Its shape.
        dtype (`str`):
            Its type as safetensors writes it, such as `"BF16"`.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def nbytes(self) -> int:
        """Returns its size in bytes."""
        return prod(self.shape) * _BYTES.get(self.dtype, 1)

    def rows(self, indices: Iterable[int]) -> torch.Tensor:
        """Reads rows, `(len(indices), hidden_size)` in float32; consecutive ones at once."""
        runs: list[list[int]] = []
        for index in indices:
            if runs and index == runs[-1][1]:
                runs[-1][1] = index + 1
            else:
                runs.append([index, index + 1])
        with safe_open(self.file, "pt") as shard:
            matrix = shard.get_slice(self.name)
            return torch.cat([matrix[start:stop].float() for start, stop in runs])

    def looks_equal(self, other: "StoredTensor") -> bool:
        """Whether a matrix equals another one, in a sample of their rows."""
        if self.shape != other.shape:
            return False
        sample = range(0, self.shape[0], max(1, self.shape[0] // SAMPLED_ROWS))
        return torch.equal(self.rows(sample), other.rows(sample))


@dataclass
class Headers:
    """
    Args:
        files (`list[str]`):
            The files that belong to the checkpoint.
        tensors (`dict[str, StoredTensor]`):
            Their tensors, of the readable ones.
        problems (`list[str]`):
            What is wrong with files.
    """

    files: list[str]
    tensors: dict[str, StoredTensor]
    problems: list[str]


def read_headers(folder: Path) -> Headers:
    """
    Reads the header of every file of a checkpoint. That a file is as long as its header says is checked too.

    Args:
        folder (`Path`):
            Checkpoint folder.

    Returns:
        [`Headers`]: without any file if the folder has neither `model.safetensors` nor an index.
    """
    if (folder / WEIGHTS).exists():
        tensors, problem = read_header(folder / WEIGHTS)
        return Headers([WEIGHTS], tensors, [problem] if problem else [])
    if not (folder / INDEX).exists():
        return Headers([], {}, [])
    try:
        weight_map = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Headers([INDEX], {}, [f"{INDEX} is damaged ({type(error).__name__}: {error})"])
    headers = Headers(files, {}, [])
    for file in files:
        tensors, problem = read_header(folder / file)
        headers.tensors |= tensors
        if problem:
            headers.problems.append(problem)
            continue
        absent = [name for name, place in weight_map.items() if place == file and name not in tensors]
        if absent:
            headers.problems.append(
                f"{file} lacks {len(absent)} tensors that {INDEX} places there, such as {absent[0]}"
            )
    return headers


def read_header(path: Path) -> tuple[dict[str, StoredTensor], str | None]:
    """Returns the tensors of a file, and what is wrong with it."""
    if not path.is_file():
        return {}, f"{path.name} is missing"
    try:
        with safe_open(path, "pt") as shard:
            slices = {name: shard.get_slice(name) for name in shard.keys()}
            return {
                name: StoredTensor(path, name, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }, None
    except (SafetensorError, OSError, ValueError) as error:
        return {}, f"{path.name} is incomplete or damaged ({error})"

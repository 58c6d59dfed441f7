# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Writes a safetensors file with changed tensors, block of rows by block of rows: memory does not grow with the file, nor
with its largest matrix.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch

from coordexp_trl.adapters.merge_plan import Edit

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK = 1 << 20  # elements that are in work at once: their float32 stays in the processor's cache
_CHUNK = 1 << 24  # bytes that are copied at once


@dataclass(frozen=True)
class Entry:
    """
    A tensor in a file.

    Args:
        dtype (`str`):
            Its type as safetensors writes it.
        shape (`tuple[int, ...]`):
            Its shape.
        start (`int`):
            Its first byte in the file.
        nbytes (`int`):
            Its size in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def rows(self) -> int:
        """Its first dimension."""
        return self.shape[0] if self.shape else 1


class TensorFile:
    """
    A safetensors file whose tensors are read in parts, into memory of their own: pages of a mapped file would count as
    the process's.

    Args:
        path (`Path`):
            The file, whose header was checked before.
    """

    def __init__(self, path: Path):
        self.file = path.open("rb", buffering=0)
        length = int.from_bytes(self.file.read(8), "little")
        header = json.loads(self.file.read(length))
        self.metadata: dict | None = header.pop("__metadata__", None)
        self.entries: dict[str, Entry] = {}
        for name, content in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = content["data_offsets"]
            self.entries[name] = Entry(content["dtype"], tuple(content["shape"]), 8 + length + start, end - start)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def read(self, name: str, start: int = 0, stop: int | None = None, out: torch.Tensor | None = None):
        """
        Args:
            name (`str`):
                Name of a tensor.
            start (`int`, *optional*, defaults to `0`):
                First row.
            stop (`int`, *optional*):
                Row after the last one; all by default.
            out (`torch.Tensor`, *optional*):
                Bytes to read into; new memory by default.

        Returns:
            `torch.Tensor`: The rows, `(stop - start, ...)`.
        """
        entry = self.entries[name]
        stop = entry.rows if stop is None else stop
        size = entry.nbytes // max(entry.rows, 1)
        out = torch.empty((stop - start) * size, dtype=torch.uint8) if out is None else out[: (stop - start) * size]
        self.file.seek(entry.start + start * size)
        view, done = memoryview(out.numpy()), 0
        while done < len(view):
            count = self.file.readinto(view[done:])
            if not count:
                raise ValueError(f"{self.file.name} ends within {name}. Copy or download it again.")
            done += count
        return out.view(DTYPES[entry.dtype]).view(stop - start, *entry.shape[1:])


class Editor:
    """
    Carries out edits with the tensors of an adapter.

    Args:
        adapter ([`TensorFile`]):
            The adapter's tensors.
    """

    def __init__(self, adapter: TensorFile):
        self.adapter = adapter
        self._bytes = torch.empty(_BLOCK * 4, dtype=torch.uint8)
        self._work = torch.empty(_BLOCK)

    def blocks(self, source: TensorFile, name: str, edit: Edit) -> Iterator[memoryview]:
        """
        Args:
            source ([`TensorFile`]):
                File of the base.
            name (`str`):
                Name of a tensor there.
            edit ([`Edit`]):
                What happens to it.

        Returns:
            `Iterator[memoryview]`: The bytes of the changed tensor, each valid until the next.
        """
        entry = source.entries[name]
        width = prod(entry.shape[1:])
        height = max(1, _BLOCK // max(width, 1))
        if self._work.numel() < width:
            self._work, self._bytes = torch.empty(width), torch.empty(4 * width, dtype=torch.uint8)
        change = self._low_rank(edit)
        rows = None
        if edit.rows:
            rows = self.adapter.read(edit.rows).float()
            ids = torch.tensor(edit.row_ids)
        origin, key = (self.adapter, edit.saved) if edit.saved else (source, name)
        for start in range(0, entry.rows, height):
            stop = min(start + height, entry.rows)
            values = origin.read(key, start, stop, out=self._bytes).view(stop - start, width)
            work = self._work[: values.numel()].view(stop - start, width).copy_(values)
            if change is not None:
                change(work, start, stop)
            if rows is not None:
                here = (ids >= start) & (ids < stop)
                work[ids[here] - start] = rows[here]
            size = work.numel() * DTYPES[entry.dtype].itemsize
            self._bytes[:size].view(DTYPES[entry.dtype]).copy_(work.view(-1))
            yield memoryview(self._bytes[:size].numpy())

    def _low_rank(self, edit: Edit) -> Callable[[torch.Tensor, int, int], None] | None:
        """Returns what adds the low-rank change to rows `start` to `stop`, `(stop - start, width)`, in place."""
        lora = edit.lora
        if lora is None:
            return None
        down, up = (self.adapter.read(key).float() for key in (lora.down, lora.up))
        if lora.of_embedding:
            down, up = up.T.contiguous(), down.T.contiguous()
        down, up = down.flatten(1), up.flatten(1)  # of a convolution too, whose B has a kernel of size 1
        magnitude = None if lora.magnitude is None else self.adapter.read(lora.magnitude).float().view(-1, 1)

        def change(work: torch.Tensor, start: int, stop: int) -> None:
            work.addmm_(up[start:stop], down, alpha=lora.scaling)
            if magnitude is not None:
                work.mul_(magnitude[start:stop] / work.norm(dim=1, keepdim=True))

        return change


def equal_tensors(file: TensorFile, first: str, second: str) -> bool:
    """Whether two tensors of a file are the same."""
    a, b = file.entries[first], file.entries[second]
    if first == second or (a.dtype, a.shape) != (b.dtype, b.shape):
        return first == second
    height = max(1, _BLOCK // max(prod(a.shape[1:]), 1))
    return all(
        torch.equal(*(file.read(name, start, min(start + height, a.rows)) for name in (first, second)))
        for start in range(0, a.rows, height)
    )


def write_tensors(
    source: TensorFile,
    target: Path,
    edits: dict[str, Edit],
    added: dict[str, tuple[str, Edit]],
    editor: Editor,
    progress: Callable[[int], object],
) -> None:
    """
    Writes a copy of a file.

    Args:
        source ([`TensorFile`]):
            File of the base.
        target (`Path`):
            File to write.
        edits (`dict[str, Edit]`):
            Tensors that change.
        added (`dict[str, tuple[str, Edit]]`):
            New tensors by name: the tensor that each starts from, and what happens to it.
        editor ([`Editor`]):
            Carries the edits out.
        progress (`Callable[[int], object]`):
            Told how many bytes were written.
    """
    plan = {name: (name, edits.get(name)) for name in source.entries} | added
    header: dict[str, dict] = {} if source.metadata is None else {"__metadata__": source.metadata}
    position = 0
    for name, (origin, _) in plan.items():
        entry = source.entries[origin]
        end = position + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb", buffering=0) as out:
        write(out, memoryview(len(text).to_bytes(8, "little") + text))
        for origin, edit in plan.values():
            entry = source.entries[origin]
            if edit is None:
                copy_bytes(source.file, out, entry.start, entry.nbytes)
                progress(entry.nbytes)
                continue
            for block in editor.blocks(source, origin, edit):
                write(out, block)
                progress(len(block))


def write(out: BinaryIO, data: memoryview) -> None:
    """Writes all of it."""
    while data:
        data = data[out.write(data) :]


def copy_bytes(source: BinaryIO, out: BinaryIO, start: int, count: int) -> None:
    """Copies bytes from one file to the end of another, within the kernel."""
    while count:
        copied = os.sendfile(out.fileno(), source.fileno(), start, min(count, _CHUNK))
        if not copied:
            raise ValueError(f"{source.name} ends too early. Copy or download it again.")
        start, count = start + copied, count - copied

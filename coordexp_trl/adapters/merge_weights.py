# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Writes safetensors files with changed tensors, block of rows by block of rows, several at once: memory does not grow
with the file, nor with its largest matrix.
"""

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from coordexp_trl.adapters.merge_plan import Edit, Lora

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK = 1 << 18  # elements that are in work at once: their float32 stays in the processor's cache
_PIECE = 1 << 23  # elements that one thread works on at a stretch
_MAX_THREADS = 8


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

    @property
    def width(self) -> int:
        """Elements of a row."""
        return prod(self.shape[1:])


class TensorFile:
    """
    A safetensors file whose tensors are read in parts, into memory of their own: pages of a mapped file would count as
    the process's.

    Args:
        path (`Path`):
            The file, whose header was checked before.
    """

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        length = int.from_bytes(os.pread(self.descriptor, 8, 0), "little")
        header = json.loads(os.pread(self.descriptor, length, 8))
        self.metadata: dict | None = header.pop("__metadata__", None)
        self.entries: dict[str, Entry] = {}
        for name, content in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = content["data_offsets"]
            self.entries[name] = Entry(content["dtype"], tuple(content["shape"]), 8 + length + start, end - start)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_) -> None:
        os.close(self.descriptor)

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
        self.read_bytes(entry.start + start * size, out)
        return out.view(DTYPES[entry.dtype]).view(stop - start, *entry.shape[1:])

    def read_bytes(self, offset: int, out: torch.Tensor) -> None:
        """Fills a tensor of bytes with what begins at a byte of the file."""
        view = memoryview(out.numpy())
        while view:
            count = os.preadv(self.descriptor, [view], offset)
            if not count:
                raise ValueError(f"{self.path} is shorter than its header says. Copy or download it again.")
            view, offset = view[count:], offset + count


class Writer:
    """
    Writes files of the base as the adapter changes them.

    Args:
        adapter ([`TensorFile`]):
            The adapter's tensors.
        progress (`Callable[[int], object]`):
            Told how many bytes were written.
    """

    def __init__(self, adapter: TensorFile, progress: Callable[[int], object]):
        self.adapter = adapter
        self.progress = progress
        self._threads = torch.get_num_threads()
        self._pool: Executor | None = None
        self._disk = ThreadPoolExecutor(1)
        self._unsynced: list[Future] = []
        self._memory = threading.local()

    def __enter__(self) -> "Writer":
        # Threads of their own, each with one of torch's: blocks are too small to be shared
        self._pool = ThreadPoolExecutor(
            min(self._threads, _MAX_THREADS), initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._disk.shutdown()
        torch.set_num_threads(self._threads)  # what threads that start later take over

    def write(
        self, source: TensorFile, target: Path, edits: dict[str, Edit], added: dict[str, tuple[str, Edit]]
    ) -> None:
        """
        Writes a file.

        Args:
            source ([`TensorFile`]):
                File of the base.
            target (`Path`):
                File to write.
            edits (`dict[str, Edit]`):
                Tensors that change.
            added (`dict[str, tuple[str, Edit]]`):
                New tensors by name: the tensor that each starts from, and what happens to it.
        """
        plan = {name: (name, edits.get(name, Edit())) for name in source.entries} | added
        header: dict[str, dict] = {} if source.metadata is None else {"__metadata__": source.metadata}
        position = 0
        for name, (origin, _) in plan.items():
            entry = source.entries[origin]
            end = position + entry.nbytes
            header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        pieces = []
        try:
            write_at(out, memoryview(len(text).to_bytes(8, "little") + text), 0)
            for name, (origin, edit) in plan.items():
                entry = source.entries[origin]
                height = max(1, _PIECE // max(entry.width, 1))
                offset = 8 + len(text) + header[name]["data_offsets"][0]
                for start in range(0, entry.rows, height):
                    rows = (start, min(start + height, entry.rows))
                    pieces.append(self._pool.submit(self._write_rows, source, origin, edit, rows, out, offset))
            for piece in as_completed(pieces):
                self.progress(piece.result())
        except BaseException:
            for piece in pieces:
                piece.cancel()
            wait(pieces)
            os.close(out)
            raise
        # While the next file is written. What is not on the disk yet could be missing after a loss of power
        self._unsynced.append(self._disk.submit(_sync, out))

    def finish(self) -> None:
        """Returns when all files are on the disk."""
        for file in self._unsynced:
            file.result()

    def _write_rows(
        self, source: TensorFile, name: str, edit: Edit, rows: tuple[int, int], out: int, offset: int
    ) -> int:
        """Writes some rows of a tensor that begins at `offset` of the new file, and returns their size in bytes."""
        entry = source.entries[name]
        height = max(1, _BLOCK // max(entry.width, 1))
        size = entry.nbytes // max(entry.rows, 1)
        data, work = self._buffers(height * entry.width)
        change = None if edit.lora is None else self._low_rank(edit.lora)
        if edit.rows:
            ids, trained = torch.tensor(edit.row_ids), self.adapter.read(edit.rows)
        for start in range(*rows, height):
            stop = min(start + height, rows[1])
            block = data[: (stop - start) * size]
            here = (ids >= start) & (ids < stop) if edit.rows else None
            if edit.saved is None and change is None and (here is None or not here.any()):
                source.read_bytes(entry.start + start * size, block)  # as they are, whatever their type
            else:
                origin, key = (self.adapter, edit.saved) if edit.saved else (source, name)
                values = work[: (stop - start) * entry.width].view(stop - start, entry.width)
                values.copy_(origin.read(key, start, stop, out=data).view_as(values))
                if change is not None:
                    change(values, start, stop)
                if here is not None:
                    values[ids[here] - start] = trained[here].float()
                block.view(DTYPES[entry.dtype]).copy_(values.view(-1))
            write_at(out, memoryview(block.numpy()), offset + start * size)
        return (rows[1] - rows[0]) * size

    def _buffers(self, numel: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns this thread's memory for so many elements: bytes (of the longest type), and float32."""
        memory = self._memory
        if not hasattr(memory, "work") or memory.work.numel() < numel:
            memory.data, memory.work = torch.empty(8 * numel, dtype=torch.uint8), torch.empty(numel)
        return memory.data, memory.work

    def _low_rank(self, lora: Lora) -> Callable[[torch.Tensor, int, int], None]:
        """Returns what adds the low-rank change to rows `start` to `stop`, `(stop - start, width)`, in place."""
        down, up = (self.adapter.read(key).float() for key in (lora.down, lora.up))
        if lora.of_embedding:
            down, up = up.T.contiguous(), down.T.contiguous()
        down, up = down.flatten(1), up.flatten(1)  # of a convolution too, whose B has a kernel of size 1
        magnitude = None if lora.magnitude is None else self.adapter.read(lora.magnitude).float().view(-1, 1)

        def change(values: torch.Tensor, start: int, stop: int) -> None:
            values.addmm_(up[start:stop], down, alpha=lora.scaling)
            if magnitude is not None:
                values.mul_(magnitude[start:stop] / values.norm(dim=1, keepdim=True))

        return change


def write_at(out: int, data: memoryview, offset: int) -> None:
    """Writes all of it to a place of a file."""
    while data:
        count = os.pwrite(out, data, offset)
        data, offset = data[count:], offset + count


def equal_tensors(file: TensorFile, first: str, second: str) -> bool:
    """Whether two tensors of a file are the same."""
    a, b = file.entries[first], file.entries[second]
    if first == second or (a.dtype, a.shape) != (b.dtype, b.shape):
        return first == second
    height = max(1, _BLOCK // max(a.width, 1))
    return all(
        torch.equal(*(file.read(name, start, min(start + height, a.rows)) for name in (first, second)))
        for start in range(0, a.rows, height)
    )


def _sync(descriptor: int) -> None:
    """Waits until a file is on the disk, and closes it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A JSONL file of records that stays on disk: validated once, then read line by line when a record is asked for."""

import mmap
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.record_views import RecordView
from coordexp_trl.records import DEFAULT_GRID, DetectionRecord, RecordError, iter_lines, parse_record


class RecordFile(Sequence[DetectionRecord]):
    """
    The records of a JSONL file, of any size: 24 bytes a record stay in memory, namely where its line begins and ends.

    The file is mapped into memory and read without a position of its own, so threads, forked and spawned processes
    share one object safely. The records equal those of [`read_records`].

    Args:
        path (`str` or `os.PathLike`):
            The file: UTF-8, one JSON object a line; blank lines are skipped.
        image_root (`str` or `os.PathLike`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of the file.
        grid ([`CoordinateGrid`], *optional*):
            Grid that coordinate tokens must belong to. Defaults to 1000 bins.
        max_objects (`int`, *optional*):
            Records with more objects are left out; `num_dropped` counts them.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether a progress bar shows the validation.

    Raises:
        [`RecordError`], a `ValueError`: at the first fault, naming file, line, field, value and remedy; or later, if
            the file was changed since.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_root: str | os.PathLike | None = None,
        grid: CoordinateGrid = DEFAULT_GRID,
        max_objects: int | None = None,
        show_progress: bool = True,
    ):
        self.path = Path(path)
        self.root = self.path.parent if image_root is None else Path(image_root)
        self.grid = grid
        self.num_dropped = 0
        self._map: mmap.mmap | None = None
        starts, ends, numbers = array("q"), array("q"), array("q")
        size = self.path.stat().st_size if self.path.is_file() else None
        title = f"Reading {self.path.name}"
        with tqdm(
            total=size, desc=title, unit="B", unit_scale=True, disable=not show_progress, delay=2, leave=False
        ) as bar:
            for number, start, line in iter_lines(self.path):
                record = parse_record(line, self.root, f"{self.path}:{number}", grid)
                bar.update(start + len(line) - bar.n)
                if max_objects is not None and len(record.objects) > max_objects:
                    self.num_dropped += 1
                    continue
                starts.append(start)
                ends.append(start + len(line))
                numbers.append(number)
        if not starts and not self.num_dropped:
            raise RecordError(f"{path}: the file holds no record. Write one JSON object a line.")
        if not starts:
            raise RecordError(f"{path}: every record has more than max_objects = {max_objects} objects. Raise it.")
        self._lines = np.array([starts, ends, numbers], dtype=np.int64)
        self._state = self._file_state()

    def __len__(self) -> int:
        return self._lines.shape[1]

    def __getitem__(self, index: int | slice) -> DetectionRecord | RecordView:
        if isinstance(index, slice):
            return RecordView(self, range(len(self))[index])
        start, end, number = self._lines[:, index].tolist()
        if self._map is None:
            self._open()
        return parse_record(self._map[start:end], self.root, f"{self.path}:{number}", self.grid)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map": None}

    def _file_state(self) -> tuple[int, int]:
        state = os.stat(self.path)
        return state.st_size, state.st_mtime_ns

    def _open(self) -> None:
        with open(self.path, "rb") as file:
            if self._file_state() != self._state:
                raise RecordError(f"{self.path}: the file was changed after it had been checked. Start again.")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

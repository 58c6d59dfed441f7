# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The finished images of a run, kept beside its output until the run is complete."""

import json
import os
from pathlib import Path
from typing import Any

from coordexp_trl.coordinates import shorten
from coordexp_trl.journal import Journal, lock_folder
from coordexp_trl.predictions import ImagePrediction, parse_prediction, prediction_row

JOURNAL = ".infer.jsonl"


class RunJournal:
    """
    The settings of a run, then one line for every finished image: its prediction, or why it has none. Each process
    has a file of its own; the main process gathers them.

    Args:
        out (`Path`):
            Output folder.
        process (`int`):
            Number of this process.

    Attributes:
        rows (`dict[int, dict]`):
            The line of each finished image, by its position in the data.
    """

    def __init__(self, out: Path, process: int) -> None:
        self.out = out
        self.rows: dict[int, dict[str, Any]] = {}
        self._file = Journal(out / (f".infer.{process}.jsonl" if process else JOURNAL))
        self._lock: int | None = None

    def lock(self) -> None:
        """Locks the folder, if it is not locked; raises a `ValueError` if another run is at work there."""
        if self._lock is None:
            self._lock = lock_folder(self.out)

    def open(self, settings: dict[str, Any]) -> None:
        """
        Locks the folder, and takes over what an earlier run finished. For the main process.

        Args:
            settings (`dict`):
                Everything that decides the predictions.

        Raises:
            `ValueError`: if another run is at work, or the earlier run had other settings.
        """
        self.lock()
        for path in self._paths():
            header, *lines = Journal(path).lines or [{}]
            if lines and "settings" in header:  # nothing is lost where nothing was finished
                check_settings(header["settings"], settings, self.out)
                self._take(lines)
        self._gather(settings)

    def begin(self, settings: dict[str, Any]) -> None:
        """Starts the file of another process than the main one."""
        self._file.begin([{"settings": settings}])

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Keeps the lines of finished images, see [`prediction_line`] and [`problem_line`]."""
        self._file.add(*lines)
        self._take(lines)

    def collect(self, settings: dict[str, Any]) -> None:
        """Takes over what the other processes finished. For the main process, when they are done."""
        for path in self._paths():
            self._take(Journal(path).lines[1:])
        self._gather(settings)

    def prediction(self, index: int) -> ImagePrediction | None:
        """Returns the prediction of a finished image, `None` if it could not be used."""
        row = self.rows[index].get("prediction")
        return None if row is None else parse_prediction(row, f"{JOURNAL}: image {index}")

    def remove(self) -> None:
        """Removes the files, once the results are written."""
        self._file.close()
        for path in self._paths():
            path.unlink()

    def close(self) -> None:
        """Ends the writing and unlocks the folder; a file without any finished image is removed."""
        self._file.close()
        if not self.rows:
            self._file.path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _paths(self) -> list[Path]:
        return sorted([*self.out.glob(JOURNAL), *self.out.glob(".infer.*.jsonl")])

    def _take(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if type(line.get("index")) is int and ("prediction" in line or "problem" in line):
                self.rows[line["index"]] = line

    def _gather(self, settings: dict[str, Any]) -> None:
        self._file.begin([{"settings": settings}, *self.rows.values()])
        for path in self._paths():
            if path != self._file.path:
                path.unlink()


def prediction_line(index: int, prediction: ImagePrediction) -> dict[str, Any]:
    """The line of an image that has a prediction."""
    return {"index": index, "prediction": prediction_row(prediction)}


def problem_line(index: int, image: str, problem: str) -> dict[str, Any]:
    """The line of an image that could not be used."""
    return {"index": index, "image": image, "problem": problem}


def check_settings(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """
    Raises unless an earlier run had the same settings.

    Args:
        old (`dict`):
            Its settings.
        new (`dict`):
            The present ones.
        out (`Path`):
            Output folder.

    Raises:
        `ValueError`: naming the first setting that differs.
    """
    new = json.loads(json.dumps(new))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            raise ValueError(
                f"out = {str(out)!r}: holds a run with {name} = {shorten(old.get(name), 300)}, now it is "
                f"{shorten(new.get(name), 300)}. Choose another folder, or begin anew with --overwrite."
            )

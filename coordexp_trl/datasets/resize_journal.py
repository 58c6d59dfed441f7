# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Which images of a folder are finished, so that a run that was cut short goes on where it stopped."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from coordexp_trl.journal import Journal, lock_folder

JOURNAL = ".resized.jsonl"


class ResizeJournal:
    """
    A file beside the images: the settings in its first line, then one line for every finished image.

    An image counts as finished if the settings and its source are still the same, and its file has the length that was
    written. Files that the journal knows and that are not wanted in this form any more are removed. The folder is
    locked against a second run until [`ResizeJournal.close`], or until the process ends.

    Args:
        folder (`Path`):
            The folder of the images; made if missing.
        settings (`dict`):
            Everything that decides how an image is written.
        wanted (`dict[str, str]`):
            Fingerprint of the source by name of the image, without suffix.

    Attributes:
        finished (`dict[str, str]`):
            Suffix of the file by name, of the images that are finished.
        removed (`int`):
            Number of obsolete images that were removed.

    Raises:
        `ValueError`: if another run writes into the folder.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], wanted: dict[str, str]) -> None:
        self._lock = lock_folder(folder)
        self._folder, self._wanted = folder, wanted
        self.finished: dict[str, str] = {}
        self.removed = 0
        self._header = {"settings": settings}
        self._journal = Journal(folder / JOURNAL)
        self._lines = self._read(self._journal.lines)
        self._begin()

    def add(self, name: str, suffix: str, num_bytes: int) -> None:
        """Notes that an image is finished."""
        line = {"name": name, "suffix": suffix, "bytes": num_bytes, "source": self._wanted[name]}
        self._journal.add(line)
        self._lines[name] = line
        self.finished[name] = suffix

    def close(self) -> None:
        """Ends the writing and unlocks the folder."""
        self._begin()
        self._journal.close()
        os.close(self._lock)

    def _begin(self) -> None:
        """Writes all lines in the order of the wanted images, whatever run finished them."""
        self._journal.begin([self._header, *(self._lines[name] for name in self._wanted if name in self._lines)])

    def _read(self, lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Returns the lines that still hold; removes the images of the others."""
        same_settings = bool(lines) and lines[0] == self._header
        kept: dict[str, dict[str, Any]] = {}
        for line in lines[1:]:
            if not line.keys() >= {"name", "suffix", "bytes", "source"}:
                continue  # the last line of a killed run
            name = line["name"]
            file = self._folder / (name + line["suffix"])
            complete = file.is_file() and file.stat().st_size == line["bytes"]
            if same_settings and complete and self._wanted.get(name) == line["source"]:
                kept[name] = line
                self.finished[name] = line["suffix"]
            elif ".." not in PurePosixPath(name).parts and not os.path.isabs(name) and name not in kept:
                self.removed += file.is_file()
                file.unlink(missing_ok=True)
        return kept

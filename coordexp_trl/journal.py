# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is finished, line by line in a file, so that a long run that was cut short goes on where it stopped."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def lock_folder(folder: Path) -> int:
    """
    Makes a folder, and locks it against a second run until the descriptor is closed or the process ends.

    Args:
        folder (`Path`):
            The folder.

    Returns:
        `int`: The open file descriptor that holds the lock.

    Raises:
        `ValueError`: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ValueError(f"{folder}: another run writes into this folder. Wait for it, or end it.") from error
    return lock


class Journal:
    """
    A file of one JSON object a line that grows while a run goes on. A kill tears its last line at worst, which is
    passed over when it is read.

    Args:
        path (`Path`):
            The file.

    Attributes:
        lines (`list[dict]`):
            What the file held when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self.lines = [parsed for line in text.split("\n") if (parsed := _parse(line))]
        self._file = None

    def begin(self, lines: Iterable[dict[str, Any]]) -> None:
        """Replaces the content, all at once, and gets ready to add to it."""
        self.close()
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        temporary.write_text("".join(map(_line, lines)), encoding="utf-8")
        os.replace(temporary, self.path)
        self._file = open(self.path, "a", encoding="utf-8")

    def add(self, *lines: dict[str, Any]) -> None:
        """Adds lines, which outlive a kill of this process from now on."""
        self._file.write("".join(map(_line, lines)))
        self._file.flush()

    def close(self) -> None:
        """Ends the writing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _parse(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}

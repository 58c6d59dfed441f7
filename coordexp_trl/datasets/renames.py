# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A file that gives the classes of a dataset other names, which the model then reads and writes."""

from pathlib import Path

import yaml


class Renames:
    """
    Maps the class names of a dataset to descriptions.

    Args:
        path (`str` or `Path`, *optional*):
            JSON or YAML file with one mapping, `{"hair_drier": "hair dryer"}`. Names that it does not hold stay as
            they are; without a file all do.

    Raises:
        `ValueError`: if the file cannot be read or is not a mapping of names to descriptions that are not blank.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        self._descs: dict[str, str] = {} if path is None else _read(Path(path))
        self._met: set[str] = set()

    def __call__(self, name: str) -> str:
        """Returns the description of a class."""
        self._met.add(name)
        return self._descs.get(name, name)

    def check(self) -> None:
        """
        Raises:
            `ValueError`: if the file renames a class that never came, which is a misspelt name.
        """
        unknown = sorted(set(self._descs) - self._met)
        if unknown:
            raise ValueError(
                f"{self.path}: {unknown[0]!r} is no class of the dataset ({len(unknown)} such names). The dataset has "
                f"{', '.join(map(repr, sorted(self._met)[:10]))}{', …' if len(self._met) > 10 else ''}."
            )


def _read(path: Path) -> dict[str, str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"rename = {str(path)!r}: cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"rename = {str(path)!r}: must hold one mapping of class names to descriptions.")
    for name, desc in content.items():
        if not isinstance(name, str) or not isinstance(desc, str) or not desc.strip():
            raise ValueError(f"{path}: {name!r}: {desc!r}: both must be text. Put them in quotation marks.")
    return content

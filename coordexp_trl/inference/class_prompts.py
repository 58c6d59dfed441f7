# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Which classes to look for: read, split into groups, and written into the instruction."""

from collections.abc import Sequence
from pathlib import Path

from coordexp_trl.matching import normalize_desc

PLACE = "{classes}"


def read_classes(text: str) -> tuple[str, ...]:
    """
    Reads a list of classes.

    Args:
        text (`str`):
            Names with commas between them, or the path of a text file with a name on each line: `@FILE`, or a path
            that ends in `.txt`.

    Returns:
        `tuple[str, ...]`: The names, in their order.

    Raises:
        `ValueError`: if the file cannot be read, there is no name, or one stands there twice.
    """
    if text.startswith("@") or text.endswith(".txt"):
        path = Path(text.removeprefix("@"))
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"classes = {text!r}: cannot read the file {str(path)!r}: {error}.") from error
    else:
        names = text.split(",")
    classes = tuple(name.strip() for name in names if name.strip())
    check_classes(classes)
    return classes


def check_classes(classes: Sequence[str]) -> None:
    """Raises a `ValueError` if there is no class, one is blank, or two are the same up to case and spaces."""
    if isinstance(classes, str) or not classes:
        raise ValueError(f"classes = {classes!r}: need at least one name.")
    seen: dict[str, str] = {}
    for name in classes:
        key = normalize_desc(name)
        if not key:
            raise ValueError(f"classes: {name!r} is blank.")
        if key in seen:
            raise ValueError(f"classes: {seen[key]!r} and {name!r} are the same class. Leave one out.")
        seen[key] = name


def class_chunks(classes: Sequence[str], size: int | None) -> list[tuple[str, ...]]:
    """Splits classes into groups of at most `size`, all but the last of that size."""
    size = size or len(classes)
    return [tuple(classes[start : start + size]) for start in range(0, len(classes), size)]


def class_instruction(prompt: str, classes: Sequence[str] | None) -> str:
    """
    Args:
        prompt (`str`):
            The instruction.
        classes (`Sequence[str]`, *optional*):
            The classes to name in it.

    Returns:
        `str`: The prompt with the classes, separated by a comma, at `{classes}`; where it has no such place, they
        follow as `" Only these classes: a, b."`.

    Example:

    ```python
    >>> class_instruction("Detect.", ["cat", "dog"])
    'Detect. Only these classes: cat, dog.'
    ```
    """
    if classes is None:
        return prompt
    listed = ", ".join(classes)
    return prompt.replace(PLACE, listed) if PLACE in prompt else f"{prompt} Only these classes: {listed}."

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Configuration files: mistakes are named with their line and the nearest known key."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import yaml


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a message about an unknown name: a suggestion if one is near, else a full stop."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix + found[0]!r}?" if found else "."


def compose_mapping(path: Path, content: str) -> yaml.MappingNode:
    """
    Parses a YAML file into nodes, which know their lines.

    Args:
        path (`Path`):
            The file.
        content (`str`):
            What it should hold, for the message.

    Returns:
        `yaml.MappingNode`: Its top level.

    Raises:
        `ValueError`: If the file is not YAML, or no mapping.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: must hold {content}.")
    return root


def check_keys(path: Path, node: yaml.MappingNode, known: Iterable[str]) -> None:
    """
    Args:
        path (`Path`):
            The file, for messages.
        node (`yaml.MappingNode`):
            Part of it.
        known (`Iterable[str]`):
            Keys that it may have.

    Raises:
        `ValueError`: If it has another one.
    """
    for key, _ in node.value:
        if key.value not in known:
            raise ValueError(f"{place(path, key)}: unknown key {str(key.value)!r}{nearest(str(key.value), known)}")


def place(path: Path, node: yaml.Node) -> str:
    """Returns `file:line` of a node."""
    return f"{path}:{node.start_mark.line + 1}"

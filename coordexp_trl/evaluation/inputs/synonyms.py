# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A file of synonyms: descriptions that mean the same, each group under the name that evaluation uses for it."""

from pathlib import Path

import yaml

from coordexp_trl.matching import normalize_desc
from coordexp_trl.yaml_files import compose_mapping, place

_CONTENT = "names, each with a list of other names for it, such as  person: [man, woman]"


def read_synonyms(path: str | Path) -> dict[str, str]:
    """
    Reads a YAML file such as

        person: [man, woman, child]
        couch:
          - sofa

    Args:
        path (`str` or `Path`):
            The file.

    Returns:
        `dict[str, str]`: for each name the name of its group, both as descriptions are compared (case, spaces and
        underscores aside).

    Raises:
        `ValueError`: if the file is not of that form or a name stands in it twice, naming file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"synonyms = {str(path)!r}: no such file.")
    groups: dict[str, str] = {}
    places: dict[str, str] = {}
    for key, values in compose_mapping(path, _CONTENT).value:
        if not isinstance(values, yaml.SequenceNode):
            raise ValueError(f"{place(path, key)}: {_shown(key)} must have a list of other names: {_CONTENT}.")
        for node in (key, *values.value):
            if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
                raise ValueError(f"{place(path, node)}: {_shown(node)} is no name. Write {_CONTENT}.")
            name = normalize_desc(node.value)
            if name in groups:
                raise ValueError(
                    f"{place(path, node)}: {node.value!r} stands in {places[name]} already. Write each name once."
                )
            groups[name], places[name] = normalize_desc(key.value), place(path, node)
    return groups


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a nested list or mapping"

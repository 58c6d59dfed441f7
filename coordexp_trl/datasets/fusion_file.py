# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""One dataset of a fusion, and the YAML file that lists them."""

import math
import os
import re
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from coordexp_trl.yaml_files import check_keys, compose_mapping, place

_PATHS = ("train_jsonl", "val_jsonl", "image_root")


@dataclass(frozen=True)
class FusionSource:
    """
    One dataset of a fusion.

    Args:
        name (`str`):
            Letters, digits, `_`, `-` and `.`; part of the names of its metrics.
        train_jsonl (`str`, *optional*):
            Training records; without them the source is only evaluated.
        val_jsonl (`str`, *optional*):
            Evaluation records; without them the source is only trained on.
        ratio (`float`, *optional*, defaults to `1.0`):
            Records of an epoch in relation to all training records of the source.
        prompt (`str`, *optional*):
            Instruction of this source in training, rollouts and evaluation; the configured one by default.
        max_objects (`int`, *optional*):
            Training records with more objects are left out. Evaluation leaves out nothing.
        seed (`int`, *optional*):
            Seed of the source's samples; that of the run by default.
        sample_without_replacement (`bool`, *optional*, defaults to `False`):
            With a ratio above 1, whether the records beyond the first pass are drawn evenly (none comes twice more
            than another) instead of independently.
        image_root (`str`, *optional*):
            Folder at which relative image paths start; the folder of each JSONL file by default.

    Raises:
        `ValueError`: If a value is not as described.
    """

    name: str
    train_jsonl: str | None = None
    val_jsonl: str | None = None
    ratio: float = 1.0
    prompt: str | None = None
    max_objects: int | None = None
    seed: int | None = None
    sample_without_replacement: bool = False
    image_root: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name))

    def quota(self, pool: int) -> int:
        """Returns how many records an epoch takes of a pool: `round(ratio * pool)`."""
        return round(self.ratio * pool)

    def sample(self, pool: int, epoch: int, seed: int) -> np.ndarray:
        """
        Draws the records of an epoch. Up to the size of the pool it is a sample without replacement; above it the
        whole pool and extra draws, independent ones or, with `sample_without_replacement`, more whole passes and a
        sample of a last one.

        Args:
            pool (`int`):
                Number of records.
            epoch (`int`):
                Number of the epoch.
            seed (`int`):
                Seed, where the source has none of its own.

        Returns:
            `np.ndarray`: `quota(pool)` positions in ascending order, which depend on nothing but the name, the pool,
            the ratio, the seed and the epoch.
        """
        own = self.seed if self.seed is not None else seed
        random = np.random.default_rng([own % 2**64, epoch, zlib.crc32(self.name.encode())])
        passes, rest = divmod(self.quota(pool), pool)
        if passes and not self.sample_without_replacement:
            extra = random.integers(pool, size=self.quota(pool) - pool)
            passes = 1
        else:
            extra = random.permutation(pool)[:rest]
        return np.sort(np.concatenate([np.tile(np.arange(pool), passes), extra]))


def read_fusion(path: str | os.PathLike) -> list[FusionSource]:
    """
    Reads a fusion file such as

    ```yaml
    extends: base.yaml
    datasets:
      - {name: coco, train_jsonl: coco/train.jsonl, val_jsonl: coco/val.jsonl}
      - {name: cells, train_jsonl: cells/train.jsonl, val_jsonl: null, ratio: 2.5, prompt: Detect the blood cells.}
    ```

    `extends` names one file or a list of them, whose sources come first; of equal keys of one source the later wins.
    Paths start at the folder of the file that they are written in.

    Args:
        path (`str` or `os.PathLike`):
            The YAML file.

    Returns:
        `list[FusionSource]`: The sources in the order in which they are first named.

    Raises:
        `ValueError`: Naming file, line, key and remedy.
    """
    entries = _read_entries(Path(path), ())
    sources = []
    for name, entry in entries.items():
        if "train_jsonl" not in entry:
            raise ValueError(
                f"{entry['name'].place}: dataset {name!r} has no train_jsonl. Name a JSONL file, or null for a source "
                "that is only evaluated."
            )
        sources.append(FusionSource(**{key: item.value for key, item in entry.items()}))
    if not sources:
        raise ValueError(f"{path}: names no dataset. List at least one under `datasets:`.")
    return sources


class _Value(NamedTuple):
    """A value and the line that it comes from."""

    value: Any
    place: str


def _read_entries(path: Path, chain: tuple[Path, ...]) -> dict[str, dict[str, _Value]]:
    """Returns the keys of each dataset of a file and of those that it extends."""
    if path.resolve() in chain:
        files = " → ".join(file.name for file in (*chain, path))
        raise ValueError(f"{path}: extends itself ({files}). Remove one of the `extends`.")
    if not path.is_file():
        raise ValueError(f"{path}: no such file{f', extended by {chain[-1]}' if chain else ''}.")
    root = compose_mapping(path, "`datasets:` and, if wanted, `extends:`")
    check_keys(path, root, ("datasets", "extends"))
    sections = {key.value: node for key, node in root.value}
    entries: dict[str, dict[str, _Value]] = {}
    for base in _bases(path, sections.get("extends")):
        for name, entry in _read_entries(base, (*chain, path.resolve())).items():
            entries.setdefault(name, {}).update(entry)
    listed = sections.get("datasets")
    if listed is None:
        return entries
    if not isinstance(listed, yaml.SequenceNode):
        raise ValueError(f"{place(path, listed)}: datasets must be a list, one `- name: …` a dataset.")
    here: set[str] = set()
    for node in listed.value:
        entry = _read_entry(path, node)
        name = entry["name"].value
        if name in here:
            raise ValueError(f"{entry['name'].place}: dataset {name!r} is listed twice. Give each a name of its own.")
        here.add(name)
        entries.setdefault(name, {}).update(entry)
    return entries


def _bases(path: Path, node: yaml.Node | None) -> list[Path]:
    names = [] if node is None else _construct(node)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{place(path, node)}: extends = {names!r}: must be the path of a fusion file, or a list.")
    return [path.parent / name for name in names]


def _read_entry(path: Path, node: yaml.Node) -> dict[str, _Value]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{place(path, node)}: a dataset must be `key: value` lines that begin with `- name: …`.")
    check_keys(path, node, [item.name for item in fields(FusionSource)])
    entry: dict[str, _Value] = {}
    for key, value_node in node.value:
        if key.value in entry:
            raise ValueError(f"{place(path, key)}: {key.value} is given twice.")
        value = _construct(value_node)
        try:
            _check(key.value, value)
        except ValueError as error:
            raise ValueError(f"{place(path, key)}: {error}") from None
        if key.value in _PATHS and value is not None:
            value = str(path.parent / value)
        entry[key.value] = _Value(value, place(path, key))
    if "name" not in entry:
        raise ValueError(f"{place(path, node)}: the dataset has no name.")
    return entry


def _construct(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip()))


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


_RULES = {
    "name": (
        lambda value: isinstance(value, str) and re.fullmatch(r"[\w.-]+", value) is not None,
        "must be letters, digits, '_', '-' or '.'",
    ),
    **dict.fromkeys(_PATHS, (_is_text, "must be a path or null")),
    "ratio": (
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf,
        "must be a number above 0; train_jsonl: null leaves a source out of training",
    ),
    "prompt": (_is_text, "must be a text or null"),
    "max_objects": (lambda value: value is None or _is_integer(value, 0), "must be an integer from 0, or null"),
    "seed": (lambda value: value is None or _is_integer(value, 0), "must be an integer from 0, or null"),
    "sample_without_replacement": (lambda value: isinstance(value, bool), "must be true or false"),
}


def _check(name: str, value: Any) -> None:
    is_valid, rule = _RULES[name]
    if not is_valid(value):
        raise ValueError(f"{name} = {value!r}: {rule}.")

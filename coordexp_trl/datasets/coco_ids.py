# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The ids that images and categories get in COCO files: those of a record's metadata where they can be used."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def are_image_ids(ids: Sequence[Any]) -> bool:
    """Whether every id is an integer of its own."""
    return all(type(image_id) is int for image_id in ids) and len(set(ids)) == len(ids)


def number_categories(descs: Iterable[str], descs_of: Mapping[int, set[str]]) -> dict[str, int] | None:
    """
    Gives each description a category id.

    Args:
        descs (`Iterable[str]`):
            The descriptions.
        descs_of (`Mapping[int, set[str]]`):
            Descriptions that each category id of the metadata stands for.

    Returns:
        `dict[str, int]` or `None`: The id of each description: of those with several the smallest; those without get
        the next free ones in alphabetical order, from 1. `None` if one id stands for two descriptions.
    """
    if any(len(names) > 1 for names in descs_of.values()):
        return None
    descs, id_of = set(descs), {}
    for category_id in sorted(descs_of):
        (desc,) = descs_of[category_id]
        if desc in descs:
            id_of.setdefault(desc, category_id)
    first_free = max(descs_of, default=0) + 1
    return id_of | {desc: number for number, desc in enumerate(sorted(descs - id_of.keys()), start=first_free)}

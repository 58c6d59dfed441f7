# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts ODVG files, the JSONL of Open-GroundingDINO and MM-Grounding-DINO, to detection records.

A line holds `filename`, `height`, `width` and `detection` (instances with a class) or `grounding` (a caption and its
regions with a phrase). Boxes are xyxy in pixels, with continuous edges from 0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.conversion import ConversionReport, read_json
from coordexp_trl.datasets.json_lines import box_numbers, need, read_json_lines
from coordexp_trl.datasets.record_builder import RecordBuilder
from coordexp_trl.records import DetectionRecord

FIELDS = ("detection", "grounding")
CONVENTION = "ODVG boxes are xyxy in pixels."

Named = list[tuple[str, tuple[float, ...]]]


def convert_odvg(
    annotations: str | Path,
    images: str | Path,
    out: str | Path,
    label_map: str | Path | None = None,
    field: str | None = None,
    rename: str | Path | None = None,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts an ODVG file to a JSONL file of detection records in pixels.

    Args:
        annotations (`str` or `Path`):
            The ODVG file, one JSON object a line.
        images (`str` or `Path`):
            Folder at which file names start.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        label_map (`str` or `Path`, *optional*):
            JSON file that maps labels to class names, `{"0": "person"}`, for instances. Defaults to the `category` of
            each instance.
        field (`str`, *optional*):
            `"detection"` or `"grounding"`, for lines that hold both. Defaults to the one that a line holds.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps class names to descriptions, see [`Renames`].
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out rather than an error.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether boxes that look like another convention are an error, see [`suspect_convention`].

    Returns:
        [`ConversionReport`]: the counts. Captions become the summaries of the records.

    Raises:
        `ValueError`: if a file, image or field is missing or malformed, a label is not in the map, or an image has
        another size than stated. The message names file, line, field and value.
    """
    if field not in (None, *FIELDS):
        raise ValueError(f"field = {field!r}: must be one of {', '.join(FIELDS)}.")
    names = None if label_map is None else _read_label_map(label_map)
    builder = RecordBuilder(images, out, rename, skip_missing_images, check_convention, CONVENTION)
    for name in (names or {}).values():
        builder.renames(name)

    def records() -> Iterator[DetectionRecord]:
        for place, row in tqdm(read_json_lines(annotations), desc="Converting", unit="image"):
            key = _field_of(row, field, place)
            content, before = need(row, key, dict, f"{place}: "), f"{place}: {key}."
            if key == "detection":
                named, summary = _read_instances(content, names, before), None
            else:
                named, summary = _read_regions(content, before), content.get("caption")
            path = builder.path_of(row.get("filename"), f"{place}: filename")
            size = tuple(need(row, side, int, f"{place}: ") for side in ("width", "height"))
            image = builder.find(path, place, len(named), size)
            if image is not None:
                yield builder.record(image, named, summary)

    return builder.write(records())


def _read_label_map(path: str | Path) -> dict[str, str]:
    names = read_json(path, "label_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise ValueError(f'{path}: must map labels to class names, {{"0": "person"}}.')
    return names


def _field_of(row: dict, field: str | None, place: str) -> str:
    given = [key for key in FIELDS if row.get(key) is not None]
    if field is not None:
        return field
    if len(given) != 1:
        remedy = "Choose one (--field)." if given else "Is this an ODVG file?"
        raise ValueError(f"{place}: has {'both' if given else 'neither'} of detection and grounding. {remedy}")
    return given[0]


def _read_instances(content: dict, names: dict[str, str] | None, before: str) -> Named:
    named = []
    for index, item in enumerate(need(content, "instances", list, before)):
        place = f"{before}instances[{index}]"
        _check_object(item, place)
        if names is None:
            if "category" not in item:
                raise ValueError(f"{place}: has no category. Give the label map of the dataset (--label-map).")
            name = need(item, "category", str, f"{place}.")
        elif str(item.get("label")) not in names:
            raise ValueError(f"{place}.label = {shorten(item.get('label'))}: is not among the {len(names)} labels.")
        else:
            name = names[str(item["label"])]
        named.append((name, box_numbers(item.get("bbox"), f"{place}.bbox")))
    return named


def _read_regions(content: dict, before: str) -> Named:
    named = []
    for index, item in enumerate(need(content, "regions", list, before)):
        place = f"{before}regions[{index}]"
        _check_object(item, place)
        phrase = item.get("phrase")
        if isinstance(phrase, list) and all(isinstance(part, str) for part in phrase):
            phrase = " ".join(phrase)  # MMDetection writes a phrase with gaps in the caption as its parts
        if not isinstance(phrase, str):
            raise ValueError(f"{place}.phrase = {shorten(phrase)}: must be text.")
        boxes = item.get("bbox")
        several = isinstance(boxes, list) and boxes != [] and isinstance(boxes[0], list)
        for box in boxes if several else [boxes]:
            named.append((phrase, box_numbers(box, f"{place}.bbox")))
    return named


def _check_object(item: Any, place: str) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"{place} = {shorten(item)}: must be a JSON object.")

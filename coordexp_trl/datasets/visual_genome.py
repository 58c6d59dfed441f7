# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts Visual Genome, its objects or its region descriptions, to detection records.

Boxes are top left corner, width and height in pixels of the image. The sizes of the images and their folders
(`VG_100K`, `VG_100K_2`) stand in a file of their own, `image_data.json`.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.conversion import ConversionReport, read_json
from coordexp_trl.datasets.json_lines import need, number
from coordexp_trl.datasets.record_builder import RecordBuilder
from coordexp_trl.records import DetectionRecord

CONVENTION = "Visual Genome writes x, y, width and height; its boxes were turned into xyxy accordingly."
_BOX_KEYS = {"objects": ("x", "y", "w", "h"), "regions": ("x", "y", "width", "height")}


def convert_visual_genome(
    image_data: str | Path,
    images: str | Path,
    out: str | Path,
    objects: str | Path | None = None,
    regions: str | Path | None = None,
    rename: str | Path | None = None,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts Visual Genome annotations to a JSONL file of detection records in pixels.

    Args:
        image_data (`str` or `Path`):
            `image_data.json`: id, size and URL of each image.
        images (`str` or `Path`):
            Folder of the images, directly or in the folders `VG_100K` and `VG_100K_2`.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        objects (`str` or `Path`, *optional*):
            `objects.json`; the description of an object is its first name. Give this or `regions`.
        regions (`str` or `Path`, *optional*):
            `region_descriptions.json`; the description of a region is its phrase.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps names to descriptions, see [`Renames`].
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out rather than an error.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether boxes that look like another convention are an error, see [`suspect_convention`].

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if a file, image or field is missing or malformed, an image is annotated twice, or has another
        size than stated. The message names file, entry and value.
    """
    if (objects is None) == (regions is None):
        raise ValueError("objects, regions: give exactly one of them, objects.json or region_descriptions.json.")
    kind, path = ("objects", objects) if regions is None else ("regions", regions)
    known = _read_images(image_data)
    builder = RecordBuilder(images, out, rename, skip_missing_images, check_convention, CONVENTION)
    entries = _read_list(path, kind)

    def records() -> Iterator[DetectionRecord]:
        seen: set[int] = set()
        for index, entry in enumerate(tqdm(entries, desc="Converting", unit="image")):
            place = f"{path}: [{index}]"
            image_id = _image_id(entry, place)
            if image_id in seen:
                raise ValueError(f"{place}: the image {image_id} is annotated twice in this file.")
            if image_id not in known:
                raise ValueError(f"{place}: the image {image_id} is missing in {image_data}.")
            seen.add(image_id)
            record = _convert(entry, image_id, known[image_id], kind, place, builder)
            if record is not None:
                yield record

    return builder.write(records())


def _read_list(path: str | Path, name: str) -> list[dict]:
    entries = read_json(path, name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: must hold a list of JSON objects, one an image.")
    return entries


def _image_id(entry: dict, place: str) -> int:
    return need(entry, "image_id" if "image_id" in entry else "id", int, f"{place}.")


def _read_images(path: str | Path) -> dict[int, dict]:
    known = {}
    for index, entry in enumerate(_read_list(path, "image_data")):
        place = f"{path}: [{index}]"
        image_id = _image_id(entry, place)
        if image_id in known:
            raise ValueError(f"{place}: the image {image_id} stands in this file twice.")
        known[image_id] = {
            "size": tuple(need(entry, key, int, f"{place}.") for key in ("width", "height")),
            "url": need(entry, "url", str, f"{place}."),
        }
    return known


def _convert(
    entry: dict, image_id: int, known: dict, kind: str, place: str, builder: RecordBuilder
) -> DetectionRecord | None:
    named, further = [], 0
    for index, item in enumerate(need(entry, kind, list, f"{place}.")):
        where = f"{place}.{kind}[{index}]"
        if not isinstance(item, dict):
            raise ValueError(f"{where} = {shorten(item)}: must be a JSON object.")
        x, y, w, h = (number(item.get(key), f"{where}.{key}") for key in _BOX_KEYS[kind])
        names = need(item, "names", list, f"{where}.") if kind == "objects" else [item.get("phrase")]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"{where}: {'names' if kind == 'objects' else 'phrase'} = {shorten(names)}: must be text."
            )
        further += len(names) > 1
        named.append((names[0] if names else "", (x, y, x + w, y + h)))
    image = builder.find(_image_path(known["url"], builder, place), place, len(named), known["size"])
    if image is None:
        return None
    if further:
        builder.report.notes["object with further names"] += further
    return builder.record(image, named, metadata={"image_id": image_id})


def _image_path(url: str, builder: RecordBuilder, place: str) -> Path:
    """The image of a URL that ends in `VG_100K/2.jpg`, in that folder or, where all images lie in one, out of it."""
    parts = PurePosixPath(urlsplit(url).path).parts[-2:]
    candidates = [builder.path_of(str(PurePosixPath(*tail)), f"{place}.url") for tail in (parts, parts[-1:])]
    return next((path for path in candidates if path.is_file()), candidates[0])

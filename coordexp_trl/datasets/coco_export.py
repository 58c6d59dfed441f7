# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Exports detection records as COCO instances, and with the federated fields of LVIS where records hold them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.datasets.coco_ids import are_image_ids, number_categories
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.json_lines import write_json_lines
from coordexp_trl.datasets.lvis import FEDERATED_KEYS, FREQUENCIES
from coordexp_trl.datasets.relocation import check_out
from coordexp_trl.datasets.segmentation import DECIMALS, polygon_area
from coordexp_trl.records import DEFAULT_GRID, DetectionObject, DetectionRecord, iter_records


def export_coco(
    data: str | Path, out: str | Path, image_root: str | Path | None = None, images: str | Path | None = None
) -> ConversionReport:
    """
    Exports a JSONL file of detection records as one JSON file of COCO instances.

    Annotations are numbered from 1, because pycocotools takes id 0 for unmatched. Ids of images and categories are
    those in `metadata` (`image_id`, `category_ids`), where converters from COCO and LVIS keep them. If an image has no
    such id, or two have the same, images are numbered from 1; categories without id get the next free ones in the
    order of their names, and all do, from 1, if one id stands for two descriptions. A description with several ids
    is one category, that of the smallest. Categories without object are not in the file.

    Args:
        data (`str` or `Path`):
            The records, in pixels or in coordinate tokens, which are decoded to pixels.
        out (`str` or `Path`):
            JSON file to write. It appears complete or not at all.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths of the records start. Defaults to the folder of `data`.
        images (`str` or `Path`, *optional*):
            Folder at which `file_name` shall start, the one to give to [`convert_coco`] on the way back. Defaults to
            `image_root`, and to absolute paths for images elsewhere.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if a record is malformed, or an image lies outside `images`.
    """
    data, out = Path(data), Path(out)
    check_out(data, out)
    root = data.parent if image_root is None else Path(image_root)
    folder = os.path.abspath(root if images is None else images)
    report, content = ConversionReport(), _Content()
    for record in tqdm(iter_records(data, root), desc="Exporting", unit="record"):
        path = Path(os.path.abspath(record.image_path))
        if path.is_relative_to(folder):
            path = path.relative_to(folder)
        elif images is not None:
            raise ValueError(f"{record.place}: the image {path} lies outside images = {str(images)!r}.")
        else:
            report.notes["image outside the image root: file_name is absolute"] += 1
        content.add(record, path.as_posix(), report)
    write_json_lines([content.finish(report)], out)
    report.check()
    return report


@dataclass
class _Content:
    """What the file will hold; until `finish`, images and annotations carry positions and descriptions for ids."""

    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    descs_of: dict[int, set[str]] = field(default_factory=dict)  # category id of metadata -> descriptions
    frequency_of: dict[int, str] = field(default_factory=dict)

    def add(self, record: DetectionRecord, file_name: str, report: ConversionReport) -> None:
        metadata = record.metadata or {}
        image = {"id": metadata.get("image_id"), "file_name": file_name}
        image |= {"width": record.width, "height": record.height}
        image |= {key: metadata[key] for key in FEDERATED_KEYS if key in metadata}
        category_ids = _parallel(metadata, "category_ids", record, report)
        frequencies = _parallel(metadata, "frequencies", record, report)
        for item, category_id, frequency in zip(record.objects, category_ids, frequencies, strict=True):
            report.objects_in += 1
            if type(category_id) is int:
                self.descs_of.setdefault(category_id, set()).add(item.desc)
                if frequency in FREQUENCIES:
                    self.frequency_of[category_id] = frequency
            annotation = _annotation(item, record)
            if 0 in annotation["bbox"][2:]:
                report.dropped["degenerate box"] += 1
                continue
            report.objects_out += 1
            self.annotations.append({"image_id": len(self.images), "category_id": item.desc} | annotation)
        self.images.append(image)

    def finish(self, report: ConversionReport) -> dict:
        report.images = len(self.images)
        ids = [image["id"] for image in self.images]
        if not are_image_ids(ids):
            if any(image_id is not None for image_id in ids):
                report.notes["image numbered anew: not every image_id of metadata is an integer of its own"] = len(ids)
            ids = list(range(1, len(ids) + 1))
        id_of = self._category_ids(report)
        for number, annotation in enumerate(self.annotations, start=1):
            annotation |= {"id": number, "image_id": ids[annotation["image_id"]]}
            annotation["category_id"] = id_of[annotation["category_id"]]
        categories = [{"id": id_of[desc], "name": desc} for desc in sorted(id_of, key=id_of.__getitem__)]
        for category in categories:
            if category["id"] in self.frequency_of:
                category["frequency"] = self.frequency_of[category["id"]]
        return {
            "info": {"description": "exported by coordexp-trl"},
            "images": [image | {"id": image_id} for image, image_id in zip(self.images, ids, strict=True)],
            "annotations": self.annotations,
            "categories": categories,
        }

    def _category_ids(self, report: ConversionReport) -> dict[str, int]:
        """The category id of each description that is written."""
        descs = {annotation["category_id"] for annotation in self.annotations}
        id_of = number_categories(descs, self.descs_of)
        if id_of is None:
            report.notes["category numbered anew: category_ids of metadata contradict each other"] = len(descs)
            self.frequency_of.clear()
            for image in self.images:
                for key in FEDERATED_KEYS:
                    image.pop(key, None)
            return number_categories(descs, {})
        return id_of


def _parallel(metadata: dict, key: str, record: DetectionRecord, report: ConversionReport) -> Sequence:
    """A list of metadata with one value an object; `None` for each if it is missing or of another length."""
    values = metadata.get(key)
    if isinstance(values, list) and len(values) == len(record.objects):
        return values
    if values is not None:
        report.notes[f"metadata.{key} of another length than objects, not used"] += 1
    return [None] * len(record.objects)


def _annotation(item: DetectionObject, record: DetectionRecord) -> dict:
    """Box, area and segmentation of an object; a box has no segmentation, since the outline is unknown."""
    points = item.poly
    if item.bins is not None and item.is_polygon:
        pixels = DEFAULT_GRID.bins_to_points(np.reshape(item.bins, (-1, 2)), record.width, record.height)
        points = pixels.ravel().tolist()
    x1, y1, x2, y2 = item.pixel_box(record.width, record.height, DEFAULT_GRID)
    bbox = [_plain(value) for value in (x1, y1, x2 - x1, y2 - y1)]
    area = (x2 - x1) * (y2 - y1) if points is None else polygon_area(points)
    segmentation = [] if points is None else [[_plain(value) for value in points]]
    return {"bbox": bbox, "area": _plain(area), "segmentation": segmentation, "iscrowd": 0}


def _plain(value: float) -> float | int:
    """Rounded to the noise of sums, and an integer if it is one."""
    value = round(value, DECIMALS)
    return int(value) if value.is_integer() else value

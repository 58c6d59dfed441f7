# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Writes small COCO and LVIS annotation files with images, for the tests of their converters."""

import json
from pathlib import Path

from PIL import Image

from coordexp_trl.records import read_records

WIDTH, HEIGHT = 40, 30
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


def annotation(bbox=(2, 3, 10, 10), image_id=1, category_id=1, **fields):
    """An annotation without id; a `bbox` of `None` leaves it out."""
    entry = {"image_id": image_id, "category_id": category_id, "iscrowd": 0, **fields}
    return entry if bbox is None else entry | {"bbox": list(bbox)}


class CocoFiles:
    """A folder with `img/a.jpg` and `coco.json`, and the conversion of both to `out.jsonl`."""

    def __init__(self, root: Path, converter):
        self.root, self.converter = root, converter
        self.json, self.img, self.out = root / "coco.json", root / "img", root / "out.jsonl"
        self.img.mkdir()
        self.image("a.jpg")
        self.content = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
            "annotations": [],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }

    def image(self, name, size=(WIDTH, HEIGHT), mode="RGB", **options):
        Image.new(mode, size).save(self.img / name, **options)

    def add_image(self, image_id, name, **fields):
        self.image(name)
        self.content["images"].append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT, **fields})

    def add(self, *annotations):
        """Appends annotations, numbered from 1 unless they have an id."""
        entries = self.content["annotations"]
        for entry in annotations:
            entries.append({"id": len(entries) + 1, **entry})

    def convert(self, images="img", **options):
        self.json.write_text(json.dumps(self.content))
        return self.converter(self.json, images and self.root / images, self.out, **options)

    def records(self, **options):
        report = self.convert(**options)
        return read_records(self.out), report

    def geometries(self, **options):
        """Boxes and polygons of all records, and the report."""
        records, report = self.records(**options)
        return [item.bbox_2d or item.poly for record in records for item in record.objects], report

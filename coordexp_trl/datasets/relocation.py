# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Derived files: their image paths stay right wherever they lie, and they never replace the file they come from."""

import os
from dataclasses import replace
from pathlib import Path

from coordexp_trl.datasets.conversion import image_reference
from coordexp_trl.records import DetectionRecord


def relocate(record: DetectionRecord, out: Path) -> DetectionRecord:
    """
    Rewrites the image paths of a record for another file.

    Args:
        record ([`DetectionRecord`]):
            The record, with the root at which its relative image paths start.
        out (`Path`):
            The JSONL file that it will be written to.

    Returns:
        [`DetectionRecord`]: the record with image paths relative to the folder of `out` where they lie below it, and
        absolute ones otherwise. Paths that were right already stay as they are written.
    """
    root, folder = Path(record.root or "."), out.parent
    if os.path.abspath(root) == os.path.abspath(folder):
        return record
    images = [image_reference(Path(root, image), out) for image in record.images]
    return replace(record, images=images, root=folder)


def check_out(data: Path, out: Path) -> None:
    """
    Raises:
        `ValueError`: if `out` is a folder, or the very file `data`, also through links.
    """
    if out.is_dir():
        raise ValueError(f"out = {str(out)!r}: is a folder. Give the path of a JSONL file.")
    if out.exists() and data.exists() and os.path.samefile(data, out):
        raise ValueError(f"out = {str(out)!r}: is the file that is read. Choose another name.")

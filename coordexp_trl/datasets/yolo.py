# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts Ultralytics YOLO labels (one text file an image) to detection records.

A line is `class x y w h`, the centre and size of a box, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon. All are divided
by the width or height of the image, with continuous edges from 0: a box over the whole image is `0.5 0.5 1 1`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.record_builder import FoundImage, RecordBuilder
from coordexp_trl.datasets.yolo_layout import YoloDataset, YoloImage, list_images, read_dataset, unused_labels
from coordexp_trl.image_files import exif_orientation
from coordexp_trl.records import DetectionRecord, enclosing_box

DECIMALS = 4  # of a pixel; labels with six decimals are no finer than 1e-6 of the width
GEOMETRIES = ("box", "polygon")
CONVENTION = (
    "A YOLO line is class, centre x, centre y, width, height, divided by width and height of the image; its "
    "boxes were turned into pixels accordingly."
)


def convert_yolo(
    names: str | Path,
    out: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    geometry: str = "box",
    skip_unlabelled: bool = False,
    rename: str | Path | None = None,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts YOLO labels to a JSONL file of detection records in pixels.

    Args:
        names (`str` or `Path`):
            `data.yaml` of the dataset, or a text file with one class name a line.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        split (`str`, *optional*):
            Split of `data.yaml` to convert: `"train"`, `"val"` or `"test"`. Give this or `images`.
        images (`str` or `Path`, *optional*):
            Folder of the images, with its subfolders, or text file with one image path a line.
        labels (`str` or `Path`, *optional*):
            Folder of the label files, laid out as the images. Defaults to Ultralytics' rule: the last folder `images`
            of the image's path replaced by `labels`.
        geometry (`str`, *optional*, defaults to `"box"`):
            What becomes of polygons: `"box"`, their enclosing boxes, or `"polygon"`.
        skip_unlabelled (`bool`, *optional*, defaults to `False`):
            Whether to leave out images without a label file, which are records without objects otherwise.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps class names to descriptions, see [`Renames`].
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out rather than an error.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether boxes that look like another convention are an error, see [`suspect_convention`].

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if a file is missing or malformed, a class is unknown, or an image is turned by its EXIF
        orientation. The message names file and line.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry = {geometry!r}: must be one of {', '.join(GEOMETRIES)}.")
    dataset = read_dataset(Path(names))
    listed = list_images(dataset, split, images, labels)
    unused = unused_labels(listed)
    if unused and not skip_missing_images:
        raise ValueError(
            f"{unused[0]}: no image for this label file ({len(unused)} such files). Check the folder of the images, "
            "or leave them out (--skip-missing-images)."
        )
    if listed.items and not any(item.label.is_file() for item in listed.items):
        raise ValueError(f"{listed.items[0].label}: no such label file, nor one for any other image. Give labels.")
    # Names come from the list, so any folder serves as the one at which they start
    builder = RecordBuilder(".", out, rename, skip_missing_images, check_convention, CONVENTION)
    for name in dataset.names.values():
        builder.renames(name)

    def records() -> Iterator[DetectionRecord]:
        for label in unused:
            builder.report.notes["image missing"] += 1
            builder.drop("image missing", len(read_label(label, dataset)))
        for item in tqdm(listed.items, desc="Converting", unit="image"):
            if not item.label.is_file():
                builder.report.notes["image without label file"] += 1
                if skip_unlabelled:
                    continue
            record = _convert(item, dataset, geometry, builder)
            if record is not None:
                yield record

    return builder.write(records())


def read_label(path: Path, dataset: YoloDataset) -> list[tuple[str, tuple[float, ...]]]:
    """
    Reads a label file.

    Args:
        path (`Path`):
            The file.
        dataset ([`YoloDataset`]):
            The classes, and whether keypoints follow the boxes.

    Returns:
        `list[tuple[str, tuple[float, ...]]]`: class name and geometry of each line, divided by width and height: four
        numbers are a box xyxy, more a polygon.

    Raises:
        `ValueError`: at the first malformed line, naming it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Label files are UTF-8 text.") from error
    return [_parse(line, f"{path}:{number}", dataset) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(line: str, place: str, dataset: YoloDataset) -> tuple[str, tuple[float, ...]]:
    try:
        index, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f"{place}: {shorten(line)}: must hold numbers only, a class and its coordinates.") from None
    if index not in dataset.names:
        raise ValueError(
            f"{place}: class {line.split()[0]} is none of the {len(dataset.names)} classes of {dataset.path} "
            f"({min(dataset.names)}..{max(dataset.names)})."
        )
    if dataset.keypoint_values:
        if len(values) != 4 + dataset.keypoint_values:
            raise ValueError(f"{place}: has {len(values)} coordinates, kpt_shape needs {4 + dataset.keypoint_values}.")
        values = values[:4]
    if len(values) == 4:
        x, y, w, h = values
        return dataset.names[index], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    if len(values) < 6 or len(values) % 2:
        hint = " Predictions with a confidence are no labels." if len(values) == 5 else ""
        raise ValueError(
            f"{place}: has {len(values)} coordinates, need 4 (a box) or an even number from 6 (a polygon).{hint}"
        )
    return dataset.names[index], tuple(values)


def _convert(item: YoloImage, dataset: YoloDataset, geometry: str, builder: RecordBuilder) -> DetectionRecord | None:
    named = read_label(item.label, dataset) if item.label.is_file() else []
    image = builder.find(item.path, item.place, len(named))
    if image is None:
        return None
    if named and exif_orientation(image.path) not in (None, 0, 1):
        raise ValueError(
            f"{item.place}: {image.path} is turned by its EXIF orientation: YOLO labels refer to the turned image. "
            "Save the image upright (PIL.ImageOps.exif_transpose)."
        )
    if dataset.keypoint_values and named:
        builder.report.notes["keypoints left out"] += len(named)
    distinct = dict.fromkeys(named)  # Ultralytics, too, removes equal lines
    builder.drop("equal line", len(named) - len(distinct))
    return builder.record(image, [(name, _pixels(values, image, geometry, builder)) for name, values in distinct])


def _pixels(values: Sequence[float], image: FoundImage, geometry: str, builder: RecordBuilder) -> tuple[float, ...]:
    if len(values) > 4 and geometry == "box":
        builder.report.notes["polygon as its box"] += 1
        values = enclosing_box(values)
    sides = (image.width, image.height) * (len(values) // 2)
    return tuple(round(value * side, DECIMALS) for value, side in zip(values, sides, strict=True))

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Builds detection records from images and named boxes, and accounts for every one of them."""

import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp_trl.datasets.conventions import suspect_convention
from coordexp_trl.datasets.conversion import ConversionReport, clip_box, image_reference, read_size
from coordexp_trl.datasets.renames import Renames
from coordexp_trl.datasets.segmentation import clip_polygon, polygon_parts
from coordexp_trl.image_files import size_problem
from coordexp_trl.records import (
    BORDER_TOLERANCE,
    DetectionObject,
    DetectionRecord,
    RecordError,
    enclosing_box,
    write_records,
)


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file, its size in pixels as stored, and the place in the annotations that names it."""

    path: Path
    width: int
    height: int
    place: str


class RecordBuilder:
    """
    What converters share once they have read an image name and its named boxes: finding the image, checking its size,
    renaming, clipping, counting, and the check of the coordinate convention.

    Args:
        images (`str` or `Path`):
            Folder at which relative image names start; a name that leaves it is an error.
        out (`str` or `Path`):
            JSONL file to write.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps class names to descriptions, see [`Renames`].
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out rather than an error.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether boxes that look like another convention are an error, see [`suspect_convention`].
        convention (`str`, *optional*, defaults to `"Boxes are xyxy in pixels."`):
            How the format writes boxes, for that error.

    Attributes:
        report ([`ConversionReport`]):
            The counts so far.
        renames ([`Renames`]):
            The renaming; a converter that knows all classes calls it once for each.

    Raises:
        `ValueError`: if there is no such folder, or `out` is a folder.
    """

    def __init__(
        self,
        images: str | Path,
        out: str | Path,
        rename: str | Path | None = None,
        skip_missing_images: bool = False,
        check_convention: bool = True,
        convention: str = "Boxes are xyxy in pixels.",
    ) -> None:
        self.images, self.out = Path(images), Path(out)
        if not self.images.is_dir():
            raise ValueError(f"images = {str(images)!r}: no such folder.")
        if self.out.is_dir():
            raise ValueError(f"out = {str(out)!r}: is a folder. Give the path of a JSONL file.")
        self.report, self.renames = ConversionReport(), Renames(rename)
        self._skip_missing_images = skip_missing_images
        self._check_convention = check_convention
        self._convention = convention
        self._met: set[Path] = set()
        self._boxes = array("d")  # x1, y1, x2, y2, width, height of each finite box

    def path_of(self, name: str, place: str) -> Path:
        """Returns the path of an image; raises `ValueError` if the name is no text or leaves the folder."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{place} = {name!r}: must be the path of an image.")
        if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(
                f"{place} = {name!r}: leaves the image folder {self.images}. Give a higher one, or an absolute path."
            )
        return self.images / name

    def find(
        self, path: Path, place: str, num_objects: int, stated: tuple[int, int] | None = None
    ) -> FoundImage | None:
        """
        Reads the size of an image.

        Args:
            path (`Path`):
                The image file.
            place (`str`):
                Where the annotations name it, for messages.
            num_objects (`int`):
                Number of its objects, counted as dropped if the image is missing and may be.
            stated (`tuple[int, int]`, *optional*):
                Width and height that the annotations state.

        Returns:
            [`FoundImage`], or `None` if the image is missing and may be.

        Raises:
            `ValueError`: if the image is missing, unreadable or of another size.
        """
        if self._skip_missing_images and not path.exists():
            self.report.notes["image missing"] += 1
            self.report.objects_in += num_objects
            if num_objects:
                self.report.dropped["image missing"] += num_objects
            return None
        size = read_size(path, place)
        problem = None if stated is None else size_problem(path, size, stated)
        if problem is not None:
            raise ValueError(f"{place}: {path}: {problem}")
        if path in self._met:
            self.report.notes["image in a further record"] += 1
        self._met.add(path)
        return FoundImage(path, *size, place)

    def drop(self, reason: str, count: int = 1) -> None:
        """Counts objects that came in and are left out."""
        self.report.objects_in += count
        if count:
            self.report.dropped[reason] += count

    def record(
        self,
        image: FoundImage,
        named: Iterable[tuple[str, Sequence[float]]],
        summary: str | None = None,
        metadata: dict | None = None,
    ) -> DetectionRecord:
        """
        Builds the record of an image.

        Args:
            image ([`FoundImage`]):
                The image.
            named (`Iterable[tuple[str, Sequence[float]]]`):
                Class name and geometry of each object in pixels: four numbers are a box xyxy, more a polygon. Boxes
                and polygons are clipped to the image; what has no area in it is dropped.
            summary (`str`, *optional*):
                A caption of the image.
            metadata (`dict`, *optional*):
                Anything else.

        Returns:
            [`DetectionRecord`]
        """
        try:
            objects = tuple(item for item in (self._object(*pair, image) for pair in named) if item is not None)
            reference = image_reference(image.path, self.out)
            return DetectionRecord((reference,), image.width, image.height, objects, summary, metadata)
        except RecordError as error:
            raise ValueError(f"{image.place}: {error}") from error

    def write(self, records: Iterable[DetectionRecord]) -> ConversionReport:
        """Writes the records; if they look wrong as a whole, raises `ValueError` and writes nothing."""
        self.report.images = write_records(self._checked(records), self.out)
        self.report.check()
        return self.report

    def _checked(self, records: Iterable[DetectionRecord]) -> Iterator[DetectionRecord]:
        yield from records
        self.renames.check()
        table = np.frombuffer(self._boxes).reshape(-1, 6)
        suspicion = suspect_convention(table[:, :4], table[:, 4:]) if self._check_convention else None
        if suspicion is not None:
            raise ValueError(
                f"{suspicion} {self._convention} To convert them all the same, switch this check off "
                "(check_convention=False, --no-convention-check)."
            )

    def _object(self, name: str, values: Sequence[float], image: FoundImage) -> DetectionObject | None:
        report = self.report
        report.objects_in += 1
        desc, problem = " ".join(name.split()), None
        if desc:
            desc = self.renames(desc)
        else:
            problem = "no description"
        if not all(map(math.isfinite, values)):
            problem = "coordinate not a finite number"
        else:
            box = tuple(enclosing_box(values))
            self._boxes.extend((*box, image.width, image.height))
            clipped, geometry_problem = clip_box(box, image.width, image.height)
            problem = problem or geometry_problem
        parts: list[list[float]] = []
        is_polygon = len(values) > 4
        if problem is None and is_polygon:
            polygons, unusable = polygon_parts([list(values)], image.place)
            parts = [part for polygon in polygons for part in clip_polygon(polygon, image.width, image.height)]
            problem = "degenerate polygon" if unusable else None if parts else "polygon outside the image"
        if problem is not None:
            report.dropped[problem] += 1
            return None
        if max(abs(new - old) for new, old in zip(clipped, box, strict=True)) > BORDER_TOLERANCE:
            report.notes[f"{'polygon' if is_polygon else 'box'} clipped to the image"] += 1
        report.objects_out += 1
        if len(parts) == 1:
            return DetectionObject(desc, poly=parts[0])
        if is_polygon:
            report.notes["box written for a polygon that its image cuts into pieces"] += 1
        return DetectionObject(desc, clipped)

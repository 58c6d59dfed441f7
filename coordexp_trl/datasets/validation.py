# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Finds everything that is wrong with a file of records, where loading stops at the first fault."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.conventions import suspect_convention
from coordexp_trl.image_files import UnusableImage, decode_image, size_problem
from coordexp_trl.protocols import Protocol
from coordexp_trl.records import (
    DEFAULT_GRID,
    DetectionObject,
    DetectionRecord,
    RecordError,
    find_errors,
    iter_lines,
    parse_record,
)

MAX_VERTICES = 1000  # polygons with more are likely masks by mistake
_CONVENTION_BOXES = 100_000  # boxes that the convention is judged by
_AT_ONCE = 4096  # images
_NOT_WRITABLE = "description that a protocol cannot write"


@dataclass(frozen=True)
class Problem:
    """
    One fault of a file.

    Args:
        line (`int`):
            Number of the line from 1; 0 for the file as a whole.
        kind (`str`):
            Kind of fault, by which faults are counted.
        message (`str`):
            What is wrong and what to do, with file and line.
        is_warning (`bool`, *optional*, defaults to `False`):
            Whether the file can be used nevertheless.
    """

    line: int
    kind: str
    message: str
    is_warning: bool = False


@dataclass
class ValidationReport:
    """
    What is wrong with a file.

    Args:
        path (`str`):
            The file.
        records (`int`, *optional*, defaults to `0`):
            Records that can be used, their images aside.
        objects (`int`, *optional*, defaults to `0`):
            Their objects.
        problems (`list[Problem]`, *optional*):
            All problems, by line.
    """

    path: str
    records: int = 0
    objects: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> Counter[str]:
        """Number of errors of each kind."""
        return Counter(problem.kind for problem in self.problems if not problem.is_warning)

    @property
    def warnings(self) -> Counter[str]:
        """Number of warnings of each kind."""
        return Counter(problem.kind for problem in self.problems if problem.is_warning)


def validate_file(
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    check_images: bool = True,
    protocols: Sequence[Protocol] = (),
    grid: CoordinateGrid = DEFAULT_GRID,
    num_workers: int | None = None,
    show_progress: bool = True,
    max_records: int | None = None,
    max_images: int | None = None,
) -> ValidationReport:
    """
    Finds all problems of a JSONL file of detection records.

    Errors are what loading refuses: a line that is no record, objects with a wrong geometry, images that are missing,
    damaged or of another size, a set of boxes that follows another convention ([`suspect_convention`]), a description
    that a protocol cannot write. Warnings are images listed twice, objects written twice, and polygons of more than
    1000 vertices.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        image_root (`str` or `os.PathLike`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of the file.
        check_images (`bool`, *optional*, defaults to `True`):
            Whether to decode the images.
        protocols (`Sequence[Protocol]`, *optional*, defaults to `()`):
            Protocols that must be able to write the descriptions.
        grid ([`CoordinateGrid`], *optional*):
            Grid that coordinate tokens must belong to. Defaults to 1000 bins.
        num_workers (`int`, *optional*):
            Threads that decode images. Defaults to the number of CPUs, at most 16.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.
        max_records (`int`, *optional*):
            Number of records that are looked at, the first ones. Defaults to all.
        max_images (`int`, *optional*):
            Number of images that are decoded, the first ones. Defaults to all.

    Returns:
        [`ValidationReport`]: the problems, by line.

    Raises:
        [`RecordError`], a `ValueError`: if the file cannot be opened.
    """
    path = Path(path)
    root = path.parent if image_root is None else Path(image_root)
    report = ValidationReport(str(path))
    found = report.problems
    lines_of: dict[str, int] = {}  # where an image was listed first
    images: list[tuple[int, str, int, int]] = []
    described: dict[str, list[str]] = {}  # what is wrong with a description
    boxes: list[Sequence[float]] = []
    sizes: list[tuple[int, int]] = []
    any_line = False
    lines = islice(iter_lines(path), max_records)
    for number, _, line in tqdm(lines, desc=f"Validating {path.name}", unit="", disable=not show_progress):
        any_line = True
        source = f"{path}:{number}"
        try:
            record = parse_record(line, root, source, grid)
        except RecordError:
            found += [Problem(number, error.kind, str(error)) for error in find_errors(line, root, source, grid)]
            _collect_raw_boxes(line, boxes, sizes)
            continue
        report.records += 1
        report.objects += len(record.objects)
        _collect_boxes(record, boxes, sizes)
        image = os.path.join(root, record.images[0])
        first = lines_of.setdefault(image, number)
        if first != number:
            message = f"{source}: images[0] = {record.images[0]!r} stands in line {first} already."
            found.append(Problem(number, "image listed twice", message, True))
        if check_images and (max_images is None or len(images) < max_images):
            images.append((number, image, record.width, record.height))
        if protocols or _needs_a_look(record.objects):
            found += [
                Problem(number, kind, f"{source}: objects[{index}]: {message}", kind != _NOT_WRITABLE)
                for index, kind, message in _object_problems(record.objects, protocols, described)
            ]
    if not any_line:
        message = f"{path}: the file holds no record. Write one JSON object a line."
        found.append(Problem(0, "no record", message))
    suspicion = suspect_convention(np.array(boxes).reshape(-1, 4), np.array(sizes).reshape(-1, 2))
    if suspicion:
        found.append(Problem(0, "convention of the boxes", f"{path}: {suspicion}"))
    found += _image_problems(path, images, num_workers, show_progress)
    found.sort(key=lambda problem: problem.line)
    return report


def _needs_a_look(objects: Sequence[DetectionObject]) -> bool:
    """Whether an object is written twice or has very many vertices; of nearly all records neither is true."""
    distinct = {(item.desc, item.bbox_2d, item.bins, item.poly) for item in objects}
    huge = any(item.is_polygon and len(item.poly or item.bins) > 2 * MAX_VERTICES for item in objects)
    return len(distinct) < len(objects) or huge


def _object_problems(
    objects: Iterable[DetectionObject], protocols: Sequence[Protocol], described: dict[str, list[str]]
) -> Iterable[tuple[int, str, str]]:
    seen: dict[tuple, int] = {}
    for index, item in enumerate(objects):
        geometry = item.bbox_2d or item.poly or item.bins
        first = seen.setdefault((item.desc, geometry), index)
        if first != index:
            yield index, "object written twice", f"{item.desc!r} is objects[{first}] again. Remove one."
        if len(geometry) > 2 * MAX_VERTICES:
            yield index, "huge polygon", f"has {len(geometry) // 2} vertices. Simplify it, or use its box."
        if not protocols:
            continue
        if item.desc not in described:
            described[item.desc] = [problem for protocol in protocols if (problem := _refusal(protocol, item.desc))]
        for problem in described[item.desc]:
            yield index, _NOT_WRITABLE, problem


def _refusal(protocol: Protocol, desc: str) -> str | None:
    try:
        protocol.gap_ids(desc, first=True)
    except ValueError as error:
        return str(error)
    return None


def _collect_boxes(record: DetectionRecord, boxes: list, sizes: list) -> None:
    if len(boxes) < _CONVENTION_BOXES:
        pixels = [item.bbox_2d for item in record.objects if item.bbox_2d is not None]
        boxes += pixels
        sizes += [(record.width, record.height)] * len(pixels)


def _collect_raw_boxes(line: bytes, boxes: list, sizes: list) -> None:
    """Boxes of a record that was refused: they tell most about a wrong convention."""
    try:
        raw = json.loads(line)
        size = int(raw["width"]), int(raw["height"])
        for item in raw["objects"]:
            box = [float(value) for value in item["bbox_2d"]]
            if len(box) == 4 and np.isfinite(box).all():
                boxes.append(box)
                sizes.append(size)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return  # said already


def _image_problems(
    path: Path, images: list[tuple[int, str, int, int]], num_workers: int | None, show_progress: bool
) -> list[Problem]:
    problems = []
    with (
        ThreadPoolExecutor(num_workers or min(16, os.cpu_count() or 1)) as pool,
        tqdm(total=len(images), desc="Checking images", unit="image", disable=not show_progress or not images) as bar,
    ):
        for start in range(0, len(images), _AT_ONCE):
            batch = images[start : start + _AT_ONCE]
            for (number, image, _, _), (kind, problem) in zip(batch, pool.map(_check_image, batch), strict=True):
                if problem:
                    message = f"{path}:{number}: images[0] = {image!r}: {problem}"
                    problems.append(Problem(number, kind, message))
                bar.update()
    return problems


def _check_image(item: tuple[int, str, int, int]) -> tuple[str, str | None]:
    _, image, width, height = item
    try:
        size = decode_image(image, cheaply=True)[1]
    except UnusableImage as error:
        return ("missing image" if not os.path.exists(image) else "unusable image"), str(error)
    return "size of the image", size_problem(image, size, (width, height))

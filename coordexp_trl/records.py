# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Detection records: one image and its objects as one JSON object a line, such as

    {"images": ["a.jpg"], "width": 640, "height": 480, "objects": [{"desc": "cat", "bbox_2d": [10, 20, 110, 220]}]}

An object has a `desc` and exactly one of `bbox_2d` (xyxy) and `poly` (x1, y1, x2, y2, ...). Numbers are pixels,
strings `"<|coord_12|>"` are bins: the type says which, so nothing is ever normalised twice, and a record never mixes
both. Relative image paths start at the folder of the file, or at an image root.
"""

import difflib
import json
import math
import numbers
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from coordexp_trl.coordinates import COORD_TOKEN, CoordinateGrid, parse_coord_token, shorten

DEFAULT_GRID = CoordinateGrid()
RECORD_KEYS = ("images", "width", "height", "objects", "summary", "metadata")
OBJECT_KEYS = ("desc", "bbox_2d", "poly")
BORDER_TOLERANCE = 1e-3  # pixels by which a coordinate may lie outside the image, for the rounding of other tools

_ARITY = {
    "bbox_2d": "4 values x1, y1, x2, y2",
    "poly": "an even number of at least 6 values x1, y1, x2, y2, ...",
    "bins": "4 values (box) or an even number of at least 6 (polygon)",
}
_BIN = (int, numbers.Integral, 0, math.inf, "a bin, an integer from 0")
_PIXEL = (float, numbers.Real, -sys.float_info.max, sys.float_info.max, "a finite number")
_MAX_SIDE = 2**31  # pixels; larger integers are no image sizes and may not even fit a float
_NO_VALUE = object()
_MAX_TABLE = 10_000  # tokens that are looked up rather than read
_ONE_OBJECT_A_LINE = "Write one JSON object a line; `coordexp data convert` converts other formats"
_OUTSIDE_HINT = "Check width and height, and that the values are pixels of this image, not normalised or 1000-scaled"
_XYWH_HINT = "Boxes are xyxy; convert xywh boxes with x2 = x + w, y2 = y + h"


class RecordError(ValueError):
    """A record that cannot be used; the message names its place, field, value and the remedy.

    Args:
        message (`str`):
            The message.
        kind (`str`, *optional*, defaults to `"record"`):
            What kind of fault it is, by which faults are counted.
    """

    def __init__(self, message: str, kind: str = "record") -> None:
        super().__init__(message)
        self.kind = kind


def enclosing_box(values: Sequence[float]) -> Sequence[float]:
    """Returns four values, a box, as they are, and of the x1, y1, x2, y2, ... of a polygon the enclosing box."""
    if len(values) == 4:
        return values
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


@dataclass(frozen=True, slots=True)
class DetectionObject:
    """One object: a description and exactly one geometry. Bins may be inverted, as a model may write them.

    Args:
        desc (`str`):
            What the object is, in open vocabulary; not blank.
        bbox_2d (`tuple[float, float, float, float]`, *optional*):
            Box in pixels, xyxy.
        poly (`tuple[float, ...]`, *optional*):
            Polygon in pixels, x1, y1, x2, y2, ...; at least 3 vertices.
        bins (`tuple[int, ...]`, *optional*):
            Box (4 values, xyxy) or polygon (an even number of values, at least 6) in bins.

    Raises:
        [`RecordError`]: if a field is not as described, or there is not exactly one geometry.
    """

    desc: str
    bbox_2d: tuple[float, float, float, float] | None = None
    poly: tuple[float, ...] | None = None
    bins: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.desc, str) or not self.desc.strip():
            _fail("description", "desc", "must be a description that is not blank", self.desc)
        if not self.desc.isascii() and any("\ud800" <= character <= "\udfff" for character in self.desc):
            _fail("description", "desc", "is not valid Unicode (lone surrogate)", self.desc)
        given = [name for name in ("bbox_2d", "poly", "bins") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"exactly one of bbox_2d, poly and bins is needed, got {' and '.join(given) or 'none'}"
            _fail("not one geometry", "", problem)
        object.__setattr__(self, given[0], _check_geometry(given[0], getattr(self, given[0])))

    @property
    def is_polygon(self) -> bool:
        """Whether the geometry is a polygon rather than a box."""
        return self.poly is not None or (self.bins is not None and len(self.bins) > 4)

    def box_bins(self, width: float, height: float, grid: CoordinateGrid) -> tuple[int, int, int, int]:
        """The box in bins, xyxy: bins as they are, a polygon's enclosing box never collapsed, pixels quantised."""
        if self.bins is None:
            return tuple(grid.pixels_to_bins([self._enclosing_box()], width, height)[0].tolist())
        if self.is_polygon:
            return tuple(grid.widen_collapsed([self._enclosing_box()])[0].tolist())
        return self.bins

    def unit_box(self, width: float, height: float, grid: CoordinateGrid) -> tuple[float, float, float, float]:
        """The box in `[0, 1]`, xyxy; pixels are scaled without quantisation. See [`DetectionObject.box_bins`]."""
        if self.bins is None:
            return tuple(grid.pixels_to_unit([self._enclosing_box()], width, height)[0].tolist())
        return tuple(grid.bins_to_unit([self.box_bins(width, height, grid)])[0].tolist())

    def pixel_box(self, width: float, height: float, grid: CoordinateGrid) -> tuple[float, float, float, float]:
        """The box in pixels, xyxy; pixel boxes are returned as they are. See [`DetectionObject.box_bins`]."""
        if self.bins is None:
            return self._enclosing_box()
        return tuple(grid.bins_to_pixels([self.box_bins(width, height, grid)], width, height)[0].tolist())

    def _enclosing_box(self) -> tuple:
        return enclosing_box(self.bbox_2d or self.poly or self.bins)


_NUMBERS, _STRING = {int, float}, {str}
_new = object.__new__
_set_desc, _set_bbox_2d, _set_poly, _set_bins = (
    getattr(DetectionObject, name).__set__ for name in ("desc", "bbox_2d", "poly", "bins")
)


@dataclass(frozen=True, slots=True)
class DetectionRecord:
    """
    One image and its objects.

    Args:
        images (`tuple[str, ...]`):
            Image paths as written in the file; the first one is the image that the objects describe.
        width (`int`), height (`int`):
            Size of the image in pixels.
        objects (`tuple[DetectionObject, ...]`):
            The objects, all in pixels or all in bins; may be empty.
        summary (`str`, *optional*):
            A caption of the image.
        metadata (`dict`, *optional*):
            Anything else that JSON can hold.
        root (`Path`, *optional*):
            Folder at which relative image paths start.
        source (`str`, *optional*, defaults to `""`):
            Where the record was read, such as `"train.jsonl:12"`; not compared.
        dataset (`str`, *optional*, defaults to `""`):
            Name of the dataset that the record belongs to where several are joined; evaluation reports it on its own.
        prompt (`str`, *optional*):
            Instruction that is given with this image instead of the configured one.

    Raises:
        [`RecordError`]: if a field is not as described.
    """

    images: tuple[str, ...]
    width: int
    height: int
    objects: tuple[DetectionObject, ...]
    summary: str | None = None
    metadata: dict | None = field(default=None, hash=False)
    root: Path | None = None
    source: str = field(default="", compare=False)
    dataset: str = field(default="", compare=False)
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.images, (list, tuple)) or not self.images:
            _fail("image path", "images", "must be a list with at least one path", self.images)
        for index, path in enumerate(self.images):
            _check_image_path(f"images[{index}]", path)
        _check_size(self.width, self.height)
        if not isinstance(self.objects, (list, tuple)):
            _fail("wrong type", "objects", "must be a list of objects (empty if the image shows none)", self.objects)
        if len({item.bins is None for item in self.objects}) > 1:
            problem = "some are in pixels, others in coordinate tokens"
            _fail("pixels and tokens mixed", "objects", problem, remedy="Use one form in a record")
        if not isinstance(self.summary, str | None):
            _fail("wrong type", "summary", "must be a string or null", self.summary)
        if not isinstance(self.metadata, dict | None):
            _fail("wrong type", "metadata", "must be a JSON object or null", self.metadata)
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "objects", tuple(self.objects))

    @property
    def place(self) -> str:
        """Where the record was read, for messages; its image if it was made in Python."""
        return self.source or self.images[0]

    @property
    def image_path(self) -> Path:
        """Path of the first image, starting at `root` if it is relative."""
        return Path(self.images[0]) if self.root is None else Path(self.root, self.images[0])

    def sorted_objects(self, grid: CoordinateGrid) -> tuple[DetectionObject, ...]:
        """The objects by `(y1, x1, y2, x2, desc)` of their unit boxes: a total order, equal ones by exact geometry."""

        def key(item: DetectionObject) -> tuple:
            x1, y1, x2, y2 = item.unit_box(self.width, self.height, grid)
            return y1, x1, y2, x2, item.desc, item.bbox_2d or item.poly or item.bins

        return tuple(sorted(self.objects, key=key))


def read_records(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None, grid: CoordinateGrid = DEFAULT_GRID
) -> list[DetectionRecord]:
    """
    Reads and validates a JSONL file of detection records.

    Args:
        path (`str` or `os.PathLike`):
            The file: UTF-8, one JSON object a line; blank lines are skipped.
        image_root (`str` or `os.PathLike`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of the file.
        grid ([`CoordinateGrid`], *optional*):
            Grid that coordinate tokens must belong to. Defaults to 1000 bins.

    Returns:
        `list[DetectionRecord]`: the records in file order, at least one.

    Raises:
        [`RecordError`], a `ValueError`: at the first fault, naming file, line, field, value and remedy.
    """
    return list(iter_records(path, image_root, grid))


def iter_records(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None, grid: CoordinateGrid = DEFAULT_GRID
) -> Iterator[DetectionRecord]:
    """Yields the records of a file one by one; arguments and errors are those of [`read_records`]."""
    root = Path(path).parent if image_root is None else Path(image_root)
    record = None
    for number, _, line in iter_lines(path):
        record = parse_record(line, root, f"{path}:{number}", grid)
        yield record
    if record is None:
        raise RecordError(f"{path}: the file holds no record. Write one JSON object a line.")


def iter_lines(path: str | os.PathLike) -> Iterator[tuple[int, int, bytes]]:
    """
    Yields the lines of a file that are not blank.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Yields:
        `tuple[int, int, bytes]`: Number of the line from 1, the byte it begins at, and the line (without a byte-order
        mark).

    Raises:
        [`RecordError`], a `ValueError`: If the file cannot be opened.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}. Give the path of a JSONL file of detection records.") from error
    start = 0
    with file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text and not text.isspace():
                yield number, start + len(line) - len(text), text
            start += len(line)


def parse_record(line: bytes, root: Path, source: str, grid: CoordinateGrid = DEFAULT_GRID) -> DetectionRecord:
    """
    Args:
        line (`bytes`):
            A line of a JSONL file.
        root (`Path`):
            Folder at which relative image paths start.
        source (`str`):
            Where the line was read, such as `"train.jsonl:12"`.
        grid ([`CoordinateGrid`], *optional*):
            Grid that coordinate tokens must belong to. Defaults to 1000 bins.

    Returns:
        [`DetectionRecord`]: The record that it holds.

    Raises:
        [`RecordError`], a `ValueError`: Naming source, field, value and remedy.
    """
    try:
        return _parse_record(_parse_line(line), root, source, grid)
    except RecordError as error:
        raise RecordError(f"{source}: {error}", error.kind) from error.__cause__


def find_errors(line: bytes, root: Path, source: str, grid: CoordinateGrid = DEFAULT_GRID) -> list[RecordError]:
    """
    Finds all that is wrong in a line where [`parse_record`], whose arguments these are, stops at the first fault.

    Returns:
        `list[RecordError]`: at most one error of each object and one of the record as such; empty if it is right.
    """
    errors: list[RecordError] = []
    try:
        _parse_record(_parse_line(line), root, source, grid, errors)
    except RecordError as error:
        errors.append(error)
    return [RecordError(f"{source}: {error}", error.kind) for error in errors]


def write_records(records: Iterable[DetectionRecord], path: str | os.PathLike) -> int:
    """
    Writes records as JSONL, in pixels or coordinate tokens as each object is. The file appears complete or not at all.

    Image paths are written as given, so relative ones must be right for the folder of the new file.

    Args:
        records (`Iterable[DetectionRecord]`):
            The records; `root`, `source`, `dataset` and `prompt` are not written.
        path (`str` or `os.PathLike`):
            The file; missing folders are made.

    Returns:
        `int`: number of records written.

    Raises:
        [`RecordError`], a `ValueError`: if a record holds a value that JSON cannot represent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "wb") as file:
            for record in records:
                file.write(_format_record(record))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _fail(kind: str, name: str, problem: str, value: Any = _NO_VALUE, remedy: str = "") -> NoReturn:
    shown = "" if value is _NO_VALUE else f" = {shorten(value)}"
    raise RecordError(f"{name}{shown}: {problem}.{' ' + remedy + '.' if remedy else ''}", kind)


def _check_image_path(name: str, path: Any) -> None:
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        _fail("image path", name, "must be the path of an image file", path)
    if ".." in path and not os.path.isabs(path) and Path(os.path.normpath(path)).parts[0] == "..":
        remedy = "Give a higher image root, or an absolute path"
        _fail("path leaves the image root", name, "leaves the image root", path, remedy)


def _check_size(width: Any, height: Any) -> None:
    for name, value in (("width", width), ("height", height)):
        if type(value) is int and 0 < value < _MAX_SIDE:
            continue
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 0 < value < _MAX_SIDE:
            _fail("image size", name, "must be a positive integer, the size of the image in pixels", value)


def _check_arity(name: str, values: Sequence) -> None:
    count = len(values)
    is_polygon = count >= 6 and count % 2 == 0
    if not (is_polygon if name == "poly" else count == 4 or (is_polygon and name == "bins")):
        _fail("number of coordinates", name, f"must hold {_ARITY[name]}, got {count}", values)


def _check_geometry(name: str, values: Any) -> tuple:
    if not isinstance(values, (list, tuple)):
        values = np.asarray(values).tolist()
        if not isinstance(values, list):
            _fail("wrong type", name, "must be a list of numbers", values)
    _check_arity(name, values)
    kind, base, low, high, title = _BIN if name == "bins" else _PIXEL
    for value in values:
        plain = type(value) is int or type(value) is kind
        if not (plain or (isinstance(value, base) and not isinstance(value, bool))) or not low <= value <= high:
            _fail("not a coordinate", name, f"{shorten(value)} is not {title}", values)
    return tuple(map(kind, values))


def _parse_line(line: bytes) -> dict:
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError(f"byte {error.start + 1} is not UTF-8. Save the file in UTF-8.", "not UTF-8") from error
    except json.JSONDecodeError as error:
        problem = f"column {error.colno}: invalid JSON ({error.msg}) in {shorten(error.doc)}"
        raise RecordError(f"{problem}. {_ONE_OBJECT_A_LINE}.", "invalid JSON") from error
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of nested brackets
        raise RecordError(f"invalid JSON ({error}). {_ONE_OBJECT_A_LINE}.", "invalid JSON") from error
    if not isinstance(raw, dict):
        problem = f"the line is not a JSON object: {shorten(raw)}. {_ONE_OBJECT_A_LINE}."
        raise RecordError(problem, "not a JSON object")
    return raw


def _check_keys(raw: dict, known: tuple[str, ...], required: tuple[str, ...], remedy: str) -> None:
    for key in raw:
        if key not in known:
            nearest = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0)[0]
            problem = f"unknown field, the nearest known one is {nearest!r}"
            _fail("unknown field", key[:80], problem, remedy=remedy)
    for key in required:
        if key not in raw:
            _fail("missing field", key, "is missing", remedy=f"Required: {', '.join(required)}")


def _parse_record(
    raw: dict, root: Path, source: str, grid: CoordinateGrid, errors: list[RecordError] | None = None
) -> DetectionRecord:
    """Raises at the first fault; given a list, adds the errors of objects to it instead."""
    _check_keys(raw, RECORD_KEYS, RECORD_KEYS[:4], "Put additional fields into metadata")
    width, height, objects = raw["width"], raw["height"], raw["objects"]
    _check_size(width, height)
    if isinstance(objects, list):
        raw["objects"] = parsed = []
        right, bottom, bins = width + BORDER_TOLERANCE, height + BORDER_TOLERANCE, _bins_of_tokens(grid.num_bins)
        for index, item in enumerate(objects):
            try:
                parsed.append(
                    _parse_usual_object(item, right, bottom, bins) or _parse_object(item, width, height, grid)
                )
            except RecordError as error:
                message = str(error)
                message = f"objects[{index}]{'' if message[0] in ' :' else '.'}{message}"
                if errors is None:
                    raise RecordError(message, error.kind) from None
                errors.append(RecordError(message, error.kind))
    return DetectionRecord(**raw, root=root, source=source)


@lru_cache(4)
def _bins_of_tokens(num_bins: int) -> dict[str, int]:
    return {COORD_TOKEN.format(k): k for k in range(min(num_bins, _MAX_TABLE))}


def _parse_usual_object(raw: Any, right: float, bottom: float, bins: dict[str, int]) -> DetectionObject | None:
    """An object that is plainly right, all checks at once and several times faster; `None` of all others."""
    if type(raw) is not dict or len(raw) != 2:
        return None
    desc, values, polygon = raw.get("desc"), raw.get("bbox_2d"), None
    # Line breaks and lone surrogates are not printable, nor are some characters that are allowed
    if type(desc) is not str or not desc.isprintable() or not desc or desc.isspace():
        return None
    low = -BORDER_TOLERANCE
    if values is None:
        polygon = raw.get("poly")
        if (
            type(polygon) is not list
            or len(polygon) < 6
            or len(polygon) % 2
            or not _NUMBERS.issuperset(map(type, polygon))
        ):
            return None
        # NaN does not pass, nor do integers that no float can hold
        xs, ys = polygon[::2], polygon[1::2]
        if not (all(low <= x <= right for x in xs) and all(low <= y <= bottom for y in ys)):
            return None
        polygon = tuple(map(float, polygon))
        tokens = None
    elif type(values) is not list or len(values) != 4:
        return None
    elif _NUMBERS.issuperset(map(type, values)):
        x1, y1, x2, y2 = values
        if not (low <= x1 < x2 <= right and low <= y1 < y2 <= bottom):  # NaN does not pass either
            return None
        values, tokens = (float(x1), float(y1), float(x2), float(y2)), None
    elif _STRING.issuperset(map(type, values)):
        tokens, values = tuple(map(bins.get, values)), None
        if None in tokens or tokens[0] >= tokens[2] or tokens[1] >= tokens[3]:
            return None
    else:
        return None
    item = _new(DetectionObject)  # without the checks of __post_init__
    _set_desc(item, desc)
    _set_bbox_2d(item, values)
    _set_poly(item, polygon)
    _set_bins(item, tokens)
    return item


def _parse_object(raw: Any, width: int, height: int, grid: CoordinateGrid) -> DetectionObject:
    if not isinstance(raw, dict):
        _fail("wrong type", "", "must be a JSON object with desc and bbox_2d or poly", raw)
    _check_keys(raw, OBJECT_KEYS, OBJECT_KEYS[:1], "Put additional fields into the metadata of the record")
    box, polygon = raw.get("bbox_2d"), raw.get("poly")
    if (box is None) == (polygon is None):
        problem = f"exactly one of bbox_2d and poly is needed, got {'neither' if box is None else 'both'}"
        _fail("not one geometry", "", problem)
    name, values = ("bbox_2d", box) if polygon is None else ("poly", polygon)
    if not isinstance(values, list):
        _fail("wrong type", name, "must be a list of numbers or of coordinate tokens", values)
    if str not in map(type, values):
        item = DetectionObject(raw["desc"], box, polygon)
    else:
        _check_arity(name, values)
        item = DetectionObject(raw["desc"], bins=_parse_tokens(name, values, grid))
    if name == "bbox_2d":
        x1, y1, x2, y2 = item.bbox_2d or item.bins
        if x2 <= x1 or y2 <= y1:
            problem = "is inverted or has no area, need x2 > x1 and y2 > y1"
            _fail("inverted or empty box", name, problem, values, _XYWH_HINT)
    if item.bins is None:
        right, bottom = width + BORDER_TOLERANCE, height + BORDER_TOLERANCE
        if min(values) < -BORDER_TOLERANCE or max(values[::2]) > right or max(values[1::2]) > bottom:
            problem = f"lies outside the image of {width} x {height} pixels"
            _fail("outside the image", name, problem, values, _OUTSIDE_HINT)
    return item


def _parse_tokens(name: str, values: list, grid: CoordinateGrid) -> list[int]:
    bins = []
    for value in values:
        if not isinstance(value, str):
            remedy = "Write pixels as numbers or bins as tokens"
            _fail("pixels and tokens mixed", name, "mixes numbers and coordinate tokens", values, remedy)
        k = parse_coord_token(value)
        if k is None:
            problem = f"{shorten(value)} is neither a number nor a token like {COORD_TOKEN.format(12)!r}"
            _fail("not a coordinate", name, problem, values)
        if k >= grid.num_bins:
            _fail("token outside the bins", name, f"{value} is outside the bins 0..{grid.num_bins - 1}", values)
        bins.append(k)
    return bins


def _format_record(record: DetectionRecord) -> bytes:
    raw = {
        "images": record.images,
        "width": int(record.width),
        "height": int(record.height),
        "objects": [_format_object(item) for item in record.objects],
    }
    raw |= {name: getattr(record, name) for name in ("summary", "metadata") if getattr(record, name) is not None}
    try:
        return json.dumps(raw, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        place = record.place
        raise RecordError(f"{place}: is not JSON: {error}. Keep to plain values in metadata.") from error


def _format_object(item: DetectionObject) -> dict:
    pixels = [int(value) if value.is_integer() else value for value in item.bbox_2d or item.poly or ()]
    values = pixels or [COORD_TOKEN.format(k) for k in item.bins]
    return {"desc": item.desc, "poly" if item.is_polygon else "bbox_2d": values}

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""LVIS from its annotation files and photographs to training files: convert, simplify, resize, tokens, tiny subset."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm.auto import tqdm

from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.lvis import convert_lvis
from coordexp_trl.datasets.resize import resize_records
from coordexp_trl.datasets.resize_settings import ResizeSettings
from coordexp_trl.datasets.sample import sample_records
from coordexp_trl.datasets.simplify import MIN_VERTICES, simplify_polygon
from coordexp_trl.datasets.tokens import convert_tokens
from coordexp_trl.records import DEFAULT_GRID, DetectionObject, DetectionRecord, iter_records, write_records
from coordexp_trl.workers import resolve_num_workers

SPLITS = ("train", "val")
ANNOTATION_FILES = ("lvis_v1_{}.json", "lvis_v0.5_{}.json")
IMAGE_FOLDERS = ("train2017", "val2017")


@dataclass(frozen=True)
class LvisSettings:
    """
    Where LVIS lies and what is made of it.

    Args:
        raw_root (`str` or `Path`):
            Folder of the downloaded files: `annotations/lvis_v1_train.json`, …, or the same without `annotations/`,
            and `images/train2017`, `images/val2017`, or the same without `images/`.
        output_base (`str` or `Path`):
            Folder in which `rescale_<factor>_<max_blocks>/` is made.
        resize ([`ResizeSettings`], *optional*):
            Sizes and quality of the images.
        poly_max_points (`int`, *optional*, defaults to `20`):
            Polygons with more vertices are simplified to this number, at least 4.
        tiny (`int`, *optional*, defaults to `256`):
            Number of records of the tiny subsets; a smaller split is taken whole.
        splits (`tuple[str, ...]`, *optional*, defaults to `("train", "val")`):
            Which splits to make.
        geometry (`str`, *optional*, defaults to `"polygon"`):
            What is written of an annotation: `"box"`, `"polygon"` (the box if it has several) or `"parts"` (an object
            a polygon), see [`convert_lvis`].
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps category names to descriptions, see [`Renames`].
        annotations (`dict[str, str | Path]`, *optional*):
            Annotation files by split, instead of those below `raw_root`.
        images (`str` or `Path`, *optional*):
            Folder of the photographs, instead of the one below `raw_root`.
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out.
        skip_bad_images (`bool`, *optional*, defaults to `False`):
            Whether images that cannot be decoded are counted and left out.
        num_workers (`int`, *optional*):
            Processes that resize. Defaults to the number of CPUs.

    Raises:
        `ValueError`: if a value makes no sense.
    """

    raw_root: str | Path
    output_base: str | Path
    resize: ResizeSettings = ResizeSettings()
    poly_max_points: int = 20
    tiny: int = 256
    splits: tuple[str, ...] = SPLITS
    geometry: str = "polygon"
    rename: str | Path | None = None
    annotations: dict[str, str | Path] | None = None
    images: str | Path | None = None
    skip_missing_images: bool = False
    skip_bad_images: bool = False
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.poly_max_points < MIN_VERTICES:
            raise ValueError(f"poly_max_points = {self.poly_max_points!r}: must be at least {MIN_VERTICES}.")
        if self.tiny < 1:
            raise ValueError(f"tiny = {self.tiny!r}: must be at least 1.")
        if not self.splits or len(set(self.splits)) != len(self.splits) or set(self.splits) - set(SPLITS):
            raise ValueError(
                f"splits = {','.join(self.splits)!r}: must name each of {', '.join(SPLITS)} at most once."
            )
        resolve_num_workers(self.num_workers)

    @property
    def folder(self) -> Path:
        """The folder that is written."""
        return Path(self.output_base) / f"rescale_{self.resize.factor}_{self.resize.max_blocks}"


def prepare_lvis(settings: LvisSettings, show_progress: bool = True) -> dict[str, ConversionReport]:
    """
    Makes `{split}.jsonl`, `{split}.coord.jsonl`, `{split}_tiny.jsonl` and `{split}_tiny.coord.jsonl`, and `images/`.

    All geometry is integers: pixels of the resized images, and bins. A run that was cut short goes on where it
    stopped: the converted annotations are kept in the hidden folder `.steps`, and finished images are not made again.

    Args:
        settings ([`LvisSettings`]):
            What to make.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        `dict[str, ConversionReport]`: the counts by split, from the annotations to `{split}.jsonl`.

    Raises:
        `ValueError`: if a file is missing (named with all places that were looked at) or wrong.
    """
    images = find_images(settings)
    annotations = {split: find_annotations(settings, split) for split in settings.splits}
    return {split: _prepare(settings, split, annotations[split], images, show_progress) for split in settings.splits}


def find_annotations(settings: LvisSettings, split: str) -> Path:
    """Returns the annotation file of a split; raises `ValueError` with the places that were looked at."""
    given = (settings.annotations or {}).get(split)
    root = Path(settings.raw_root)
    usual = [root / folder / name.format(split) for name in ANNOTATION_FILES for folder in ("annotations", "")]
    candidates = usual if given is None else [Path(given)]
    for path in candidates:
        if path.is_file():
            return path
    option = "" if given else f" Give another file with --{split}-annotations, or leave the split out of SPLITS."
    raise ValueError(f"no annotations of the split {split!r}. Looked for {_listed(candidates)}.{option}")


def find_images(settings: LvisSettings) -> Path:
    """Returns the folder that holds `train2017` and `val2017`, or else all images; raises `ValueError`."""
    root = Path(settings.raw_root)
    parents = [root / "images", root]
    if settings.images is not None:
        if not Path(settings.images).is_dir():
            raise ValueError(f"images = {str(settings.images)!r}: no such folder.")
        return Path(settings.images)
    for parent in parents:
        if any((parent / name).is_dir() for name in IMAGE_FOLDERS):
            return parent
    if parents[0].is_dir():
        return parents[0]
    looked = [parent / name for parent in parents for name in IMAGE_FOLDERS]
    raise ValueError(f"no images. Looked for {_listed(looked)}. Give another folder with --images.")


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)


def _prepare(
    settings: LvisSettings, split: str, annotations: Path, images: Path, show_progress: bool
) -> ConversionReport:
    folder = settings.folder
    converted, report = _converted(settings, split, annotations, images, show_progress)
    out, tiny = folder / f"{split}.jsonl", folder / f"{split}_tiny.jsonl"
    resized = resize_records(
        converted,
        out,
        settings.resize,
        num_workers=settings.num_workers,
        skip_bad_images=settings.skip_bad_images,
        show_progress=show_progress,
    )
    sample_records(out, min(settings.tiny, resized.images), tiny, show_progress=show_progress)
    for file in (out, tiny):
        convert_tokens(file, show_progress=show_progress)
    return _joined(report, resized)


def _converted(
    settings: LvisSettings, split: str, annotations: Path, images: Path, show_progress: bool
) -> tuple[Path, ConversionReport]:
    """Returns the converted and simplified records, made before or now, and their counts."""
    steps = settings.folder / ".steps"
    out, stamp, raw = steps / f"{split}.jsonl", steps / f"{split}.json", steps / f"{split}.raw.jsonl"
    stat = annotations.stat()
    rename = None if settings.rename is None else Path(settings.rename).read_bytes()
    options = {"geometry": settings.geometry, "skip_missing_images": settings.skip_missing_images}
    inputs = (str(annotations.resolve()), stat.st_size, stat.st_mtime_ns, str(images.resolve()), rename)
    key = hashlib.sha256(repr((inputs, options, settings.poly_max_points)).encode()).hexdigest()
    known = _read_stamp(stamp)
    if known.get("key") == key and out.is_file() and out.stat().st_size == known["bytes"]:
        return out, ConversionReport(**{k: Counter(v) if type(v) is dict else v for k, v in known["report"].items()})
    report = convert_lvis(annotations, images, raw, rename=settings.rename, **options)
    simplified = ConversionReport()
    records = tqdm(iter_records(raw), desc="Simplifying", unit="record", disable=not show_progress)
    simplified.images = write_records(_simplified(records, settings.poly_max_points, simplified), out)
    raw.unlink()
    report = _joined(report, simplified)
    content = {"key": key, "bytes": out.stat().st_size, "report": vars(report)}
    stamp.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return out, report


def _read_stamp(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut short
        return {}


def _simplified(
    records: Iterator[DetectionRecord], max_points: int, report: ConversionReport
) -> Iterator[DetectionRecord]:
    for record in records:
        report.objects_in += len(record.objects)
        objects = tuple(_simplify(item, record, max_points, report.notes) for item in record.objects)
        report.objects_out += len(objects)
        yield replace(record, objects=objects)


def _simplify(item: DetectionObject, record: DetectionRecord, max_points: int, notes: Counter[str]) -> DetectionObject:
    if item.poly is None or len(item.poly) <= 2 * max_points:
        return item
    polygon = simplify_polygon(item.poly, max_points)
    if polygon is None:
        notes["polygon replaced by its box"] += 1
        return DetectionObject(item.desc, bbox_2d=item.pixel_box(record.width, record.height, DEFAULT_GRID))
    notes[f"polygon simplified to {max_points} vertices"] += 1
    return replace(item, poly=polygon)


def _joined(first: ConversionReport, second: ConversionReport) -> ConversionReport:
    """The counts of two steps, of which the second read what the first wrote."""
    assert first.objects_out == second.objects_in, (first, second)
    report = ConversionReport(
        images=second.images,
        objects_in=first.objects_in,
        objects_out=second.objects_out,
        dropped=first.dropped + second.dropped,
        notes=first.notes + second.notes,
    )
    report.check()
    return report

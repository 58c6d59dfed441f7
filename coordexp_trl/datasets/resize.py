# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Resizes the images of a dataset once, to the sizes that Qwen's image processor would choose, and their geometry.

Both sides are multiples of `factor`, the area lies between two limits, and the aspect ratio is kept as closely as that
allows. An image of such a size passes the processor unchanged.
"""

import contextlib
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.relocation import check_out, relocate
from coordexp_trl.datasets.resize_journal import ResizeJournal
from coordexp_trl.datasets.resize_settings import ResizeSettings
from coordexp_trl.datasets.resize_worker import ResizedImage, ResizeJob, resize_image
from coordexp_trl.datasets.rounding import round_axis, round_side
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError, iter_records, write_records
from coordexp_trl.workers import map_in_processes, resolve_num_workers

_MAX_LISTED = 5
_KEPT_SIZE = 2**25  # bytes of a file whose records stay in memory; larger ones are read twice


def resize_object(item: DetectionObject, old: tuple[int, int], new: tuple[int, int]) -> DetectionObject:
    """
    Scales an object in pixels to another image size.

    Args:
        item ([`DetectionObject`]):
            The object. Bins are relative to the image, so an object in bins is returned as it is.
        old (`tuple[int, int]`), new (`tuple[int, int]`):
            Width and height of the image, before and after.

    Returns:
        [`DetectionObject`]: the object in integers within the image. Neither a box nor the box around a polygon
        collapses. Neighbouring vertices of a polygon that have become equal are merged, as long as three remain.
    """
    if item.bins is not None:
        return item
    scale_x, scale_y = new[0] / old[0], new[1] / old[1]
    if item.bbox_2d is not None:
        x1, y1, x2, y2 = item.bbox_2d
        x1, x2 = round_side(x1 * scale_x, x2 * scale_x, new[0])
        y1, y2 = round_side(y1 * scale_y, y2 * scale_y, new[1])
        return DetectionObject(item.desc, bbox_2d=(x1, y1, x2, y2))
    xs = [x * scale_x for x in item.poly[::2]]
    ys = [y * scale_y for y in item.poly[1::2]]
    points = list(zip(round_axis(xs, new[0]), round_axis(ys, new[1]), strict=True))
    distinct = [point for point, before in zip(points, points[-1:] + points, strict=False) if point != before]
    if len(distinct) >= 3:
        points = distinct
    return DetectionObject(item.desc, poly=[value for point in points for value in point])


@dataclass
class _FileRecords:
    """The records of a file, read anew by every loop."""

    data: Path
    image_root: str | Path | None

    def __iter__(self) -> Iterator[DetectionRecord]:
        return iter_records(self.data, self.image_root)


class _Planned(NamedTuple):
    place: str  # the first record that shows the image
    old: tuple[int, int]
    new: tuple[int, int]


def resize_records(
    data: str | Path,
    out: str | Path,
    settings: ResizeSettings | None = None,
    image_root: str | Path | None = None,
    num_workers: int | None = None,
    skip_bad_images: bool = False,
    show_progress: bool = True,
) -> ConversionReport:
    """
    Writes a dataset whose images have sizes that Qwen's image processor leaves as they are.

    The images go to `images/<name of the file without suffix>/` beside the output, which refers to them by relative
    paths, so the folder can be moved. A run that was cut short goes on where it stopped, and a second run does only
    what has changed. The output does not depend on the number of workers.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or bins. Of a record with several images only the first, which
            its objects describe, is resized.
        out (`str` or `Path`):
            JSONL file to write, or a folder for a file of the same name.
        settings ([`ResizeSettings`], *optional*):
            Sizes and quality.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        num_workers (`int`, *optional*):
            Number of processes. Defaults to the number of CPUs.
        skip_bad_images (`bool`, *optional*, defaults to `False`):
            Whether to leave out records whose image is missing, damaged or of another size, rather than to fail.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if a record or an option is wrong, or if images are unusable; the first 5 of these are named,
        each with file and line, after all other images were finished.
        `OSError`: if the disk refuses a file.
    """
    settings = settings or ResizeSettings()
    num_workers = resolve_num_workers(num_workers)
    data, out = Path(data), output_file(data, out)
    check_out(data, out)
    records: Iterable[DetectionRecord] = _FileRecords(data, image_root)
    if data.is_file() and data.stat().st_size <= _KEPT_SIZE:
        records = list(records)
    bar = tqdm(records, desc="Reading", unit="record", disable=not show_progress)
    plan = _plan(bar, settings)
    folder = out.parent / "images" / out.stem
    _check_folder(folder, plan)
    names = _image_names(list(plan))
    fingerprints = {names[source]: _fingerprint(source, planned) for source, planned in plan.items()}
    journal = ResizeJournal(folder, asdict(settings), fingerprints)
    report = ConversionReport()
    try:
        for unfinished in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):  # of a run that was killed
            unfinished.unlink()
        if journal.removed:
            out.unlink(missing_ok=True)  # its records speak of images that are gone
        if journal.finished:
            report.notes["images finished before"] = len(journal.finished)
        images = _ResizedImages(plan, names, folder, journal, settings.quality, num_workers, show_progress)
        resized = _resized(records, plan, images, out, report, skip_bad_images)
        with contextlib.closing(images):
            report.images = write_records(resized, out)
    finally:
        journal.close()
    report.check()
    return report


def output_file(data: str | Path, out: str | Path) -> Path:
    """Returns `out` if it names a JSONL file, else the file of the name of `data` in the folder `out`."""
    out = Path(out)
    return out if out.suffix == ".jsonl" else out / Path(data).name


def _source(record: DetectionRecord) -> str:
    return os.path.abspath(os.path.join(record.root or "", record.images[0]))


def _plan(records: Iterable[DetectionRecord], settings: ResizeSettings) -> dict[str, _Planned]:
    plan: dict[str, _Planned] = {}
    for record in records:
        size = (record.width, record.height)
        known = plan.get(_source(record))
        if known is None:
            try:
                plan[_source(record)] = _Planned(record.place, size, settings.target_size(*size))
            except ValueError as error:
                raise RecordError(f"{record.place}: images[0] = {record.images[0]!r}: {error}.") from error
        elif known.old != size:
            raise RecordError(
                f"{record.place}: images[0] = {record.images[0]!r}: is {size[0]} x {size[1]} pixels here, but "
                f"{known.old[0]} x {known.old[1]} in {known.place}. Correct width and height."
            )
    return plan


def _check_folder(folder: Path, plan: dict[str, _Planned]) -> None:
    """Refuses to write where images are read from."""
    real = os.path.realpath(folder) + os.sep
    for source, planned in plan.items():
        if os.path.realpath(source).startswith(real):
            raise ValueError(
                f"{planned.place}: images[0] = {source!r}: lies in the folder that would be written, {str(folder)!r}. "
                "Choose another output."
            )


def _image_names(sources: list[str]) -> dict[str, str]:
    """Names without suffix, relative to the folder that all sources share; distinct also where case is ignored."""
    if not sources:
        return {}
    root = os.path.commonpath([os.path.dirname(source) for source in sources])
    names, taken = {}, set()
    for source in sources:
        stem = Path(os.path.relpath(source, root)).with_suffix("").as_posix()
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names[source] = name
    return names


def _fingerprint(source: str, planned: _Planned) -> str:
    try:
        stat = os.stat(source)
    except OSError:
        return ""  # the worker will say what is wrong
    parts = (source, stat.st_size, stat.st_mtime_ns, planned.old)
    return hashlib.sha256(repr(parts).encode("utf-8", errors="surrogateescape")).hexdigest()[:32]


class _ResizedImages:
    """Resizes what is not finished while the records that show it are written, in the order of the plan."""

    def __init__(
        self,
        plan: dict[str, _Planned],
        names: dict[str, str],
        folder: Path,
        journal: ResizeJournal,
        quality: int,
        num_workers: int,
        show_progress: bool,
    ) -> None:
        self.problems: dict[str, str] = {}
        self._plan, self._names, self._journal = plan, names, journal
        pending = [source for source in plan if names[source] not in journal.finished]
        targets = [folder / names[source] for source in pending]
        for parent in {target.parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        jobs = [
            ResizeJob(source, str(target), plan[source].old, plan[source].new, quality)
            for source, target in zip(pending, targets, strict=True)
        ]
        self._results = map_in_processes(resize_image, jobs, num_workers)
        self._sources = iter(pending)
        done = len(plan) - len(pending)
        self._bar = tqdm(total=len(plan), initial=done, desc="Resizing", unit="image", disable=not show_progress)

    def file(self, source: str) -> str | None:
        """Waits for an image; returns its path below the folder of images, `None` if the source is unusable."""
        name = self._names[source]
        while name not in self._journal.finished and source not in self.problems:
            self._take(next(self._sources), next(self._results))
        return None if source in self.problems else name + self._journal.finished[name]

    def close(self) -> None:
        """Ends the workers."""
        self._results.close()
        self._bar.close()

    def _take(self, source: str, result: ResizedImage) -> None:
        if result.problem:
            self.problems[source] = f"{self._plan[source].place}: images[0] = {source!r}: {result.problem}"
        else:
            self._journal.add(self._names[source], result.suffix, result.num_bytes)
        self._bar.update()


def _list_problems(problems: dict[str, str], num_images: int) -> str:
    lines = [f"{len(problems)} of {num_images} images are unusable:", *list(problems.values())[:_MAX_LISTED]]
    if len(problems) > _MAX_LISTED:
        lines.append(f"... and {len(problems) - _MAX_LISTED} more")
    lines.append(
        "Correct them and run again, which goes on with what is finished, or leave their records out "
        "(--skip-bad-images)."
    )
    return "\n  ".join(lines)


def _resized(
    records: Iterable[DetectionRecord],
    plan: dict[str, _Planned],
    images: _ResizedImages,
    out: Path,
    report: ConversionReport,
    skip_bad_images: bool,
) -> Iterator[DetectionRecord]:
    for record in records:
        source = _source(record)
        if source not in plan:
            raise RecordError(f"{record.place}: the file was changed while it was read. Run again.")
        report.objects_in += len(record.objects)
        file = images.file(source)
        if file is None:
            report.notes["records left out: unusable image"] += 1
            report.dropped["unusable image"] += len(record.objects)
            continue
        report.objects_out += len(record.objects)
        old, new = plan[source].old, plan[source].new
        further = relocate(record, out).images[1:] if len(record.images) > 1 else ()
        yield replace(
            record,
            images=(f"images/{out.stem}/{file}", *further),
            width=new[0],
            height=new[1],
            objects=tuple(resize_object(item, old, new) for item in record.objects),
        )
    if images.problems and (not skip_bad_images or len(images.problems) == len(plan)):
        raise RecordError(_list_problems(images.problems, len(plan)))

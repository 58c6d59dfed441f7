# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of records: a bounded look at each file, and the tokens that they take."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.fusion import is_fusion_file
from coordexp_trl.datasets.fusion_file import read_fusion
from coordexp_trl.datasets.statistics import summary
from coordexp_trl.datasets.validation import ValidationReport, validate_file
from coordexp_trl.doctor.check import Check, attempt, fail, listed, ok, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.generation import PromptBuilder, SamplingConfig
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionRecord, iter_records

MAX_RECORDS, MAX_IMAGES = 1000, 50
_CONVENTION = "convention of the boxes"
_IMAGE_KINDS = ("missing image", "unusable image", "size of the image")
_LONGEST_LINE = 1 << 20  # bytes of a record
_NOT_LIMITED = 1 << 40  # tokens


def check_data(path: str, image_root: str | None, protocol: str, checkpoint: Checkpoint | None) -> Iterator[Check]:
    """
    Args:
        path (`str`):
            JSONL file, or a fusion whose files are all looked at.
        image_root (`str`, *optional*):
            Folder at which relative image paths start.
        protocol (`str`):
            Protocol in which the tokens are counted.
        checkpoint ([`Checkpoint`], *optional*):
            Checkpoint whose tokenizer and processor count them.

    Yields:
        [`Check`]
    """
    try:
        files = _files(path, image_root)
    except ValueError as error:
        yield fail("data.fusion", str(error), "Mend the file: docs/data/fusion.md shows its form.")
        return
    for file, root in files:
        yield from attempt("data", _check_file, Path(file), root, protocol, checkpoint)


def _files(path: str, image_root: str | None) -> list[tuple[str, str | None]]:
    if not is_fusion_file(path):
        return [(path, image_root)]
    return [
        (file, source.image_root or image_root)
        for source in read_fusion(path)
        for file in (source.train_jsonl, source.val_jsonl)
        if file is not None
    ]


def _check_file(path: Path, root: str | None, protocol: str, checkpoint: Checkpoint | None) -> Iterator[Check]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        yield fail("data.file", f"{path} {what}", "Name a JSONL file of records; coordexp data convert makes them.")
        return
    if path.suffix == ".json" and not _begins_with_a_record(path):
        yield fail(
            "data.file",
            f"{path} is a JSON file, not JSONL",
            "Convert annotations into records first: coordexp data convert coco --help",
        )
        return
    report = validate_file(path, root, show_progress=False, max_records=MAX_RECORDS, max_images=MAX_IMAGES)
    yield from _judge(report)
    if any(kind not in (*_IMAGE_KINDS, _CONVENTION) for kind in report.errors):
        return
    records = list(islice(iter_records(path, root), MAX_RECORDS))
    if _CONVENTION not in report.errors:
        yield _describe_geometry(path, records)
    if checkpoint is not None:
        yield from attempt("data.lengths", check_lengths, path, records, protocol, checkpoint)


def _begins_with_a_record(path: Path) -> bool:
    """Whether the first line is an object with objects. A file of annotations may be one line of gigabytes."""
    with open(path, "rb") as file:
        line = file.readline(_LONGEST_LINE)
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "objects" in record


def _judge(report: ValidationReport) -> Iterator[Check]:
    """The findings of a validation, sorted by what they concern."""
    path = report.path
    full = f"coordexp data validate {path}"
    errors = [problem for problem in report.problems if not problem.is_warning]
    of_images = [problem for problem in errors if problem.kind in _IMAGE_KINDS]
    of_convention = [problem for problem in errors if problem.kind == _CONVENTION]
    of_records = [problem for problem in errors if problem not in of_images and problem not in of_convention]
    warnings = [problem for problem in report.problems if problem.is_warning]
    cut = (
        f", the first {MAX_RECORDS} lines" if report.records + len({p.line for p in of_records}) >= MAX_RECORDS else ""
    )
    found = f"{path}: {report.records} records with {report.objects} objects{cut}"
    if of_records:
        yield fail("data.records", f"{found}; {len(of_records)} errors: {_first(of_records)}", f"All of them: {full}")
    elif warnings:
        yield warn("data.records", f"{found}; {len(warnings)} doubtful: {_first(warnings)}", f"All of them: {full}")
    elif not report.objects:
        yield warn("data.records", f"{found}: nothing to learn from", "Check the conversion: every image is empty.")
    else:
        yield ok("data.records", found)
    if of_convention:
        yield fail(
            "data.convention",
            _first(of_convention),
            "Convert the boxes to xyxy in pixels of the image file, before anything is trained on them.",
        )
    if of_images:
        yield fail(
            "data.images",
            f"{len(of_images)} of {min(report.records, MAX_IMAGES)} images: {_first(of_images)}",
            f"Give --image-root, or mend the records; all problems: {full}",
        )
    elif report.records:
        yield ok(
            "data.images", f"{path}: {min(report.records, MAX_IMAGES)} images decoded, in the sizes that are given"
        )


def _first(problems: Sequence) -> str:
    return listed(problem.message for problem in problems)


def _describe_geometry(path: Path, records: Sequence[DetectionRecord]) -> Check:
    objects = [item for record in records for item in record.objects]
    counts = {
        "boxes in pixels (xyxy)": sum(item.bbox_2d is not None for item in objects),
        "polygons in pixels": sum(item.poly is not None for item in objects),
        "boxes or polygons in coordinate tokens": sum(item.bins is not None for item in objects),
    }
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return ok("data.convention", f"{path}: {found or 'no geometry'}, all within their images")


def check_lengths(
    path: Path, records: Sequence[DetectionRecord], protocol: str, checkpoint: Checkpoint
) -> Iterator[Check]:
    """
    Tokens of prompt and ground truth, against the model's context and the default `max_completion_length`.

    Args:
        path (`Path`):
            The file, for the message.
        records (`Sequence[DetectionRecord]`):
            Its first records.
        protocol (`str`):
            `"tags"` or `"json"`.
        checkpoint ([`Checkpoint`]):
            Checkpoint with tokenizer, processor and context.

    Yields:
        [`Check`]
    """
    from coordexp_trl.trainers.record_checks import fit_records

    name, limit = "data.lengths", SamplingConfig().max_completion_length
    try:
        vocabulary = checkpoint.vocabulary
        writer = get_protocol(protocol, checkpoint.tokenizer, vocabulary)
        prompts, grid = PromptBuilder(checkpoint.processor), CoordinateGrid(vocabulary.num_bins)
        _, lengths = fit_records(records, prompts, writer, grid, _NOT_LIMITED, "error")
    except ValueError as error:
        yield fail(name, str(error), "Mend what it names; the trainer stops there too.")
        return
    context = checkpoint.config.get_text_config().max_position_embeddings
    prompt, completion = (summary(column) for column in lengths.T)
    longest, together = int(completion["max"]), int(lengths.sum(1).max())
    found = (
        f"{path}: prompts take up to {prompt['max']:.0f} tokens, ground truth {completion['median']:.0f} (median) to "
        f"{longest} in {protocol!r}"
    )
    rollout = int(prompt["max"]) + limit
    if together > context:
        yield fail(
            name,
            f"{found}: together {together}, the context is {context}",
            'Reduce max_pixels, or leave such records out with too_long="drop".',
        )
    elif longest > limit:
        over = int((lengths[:, 1] > limit).sum())
        yield warn(
            name,
            f"{found}: {over} of {len(lengths)} records are longer than max_completion_length = {limit}",
            f"Set max_completion_length to {longest} or more, else rollouts on them are always cut.",
        )
    elif rollout > context:
        yield warn(
            name,
            f"{found}: with max_completion_length = {limit} it makes {rollout}, the context is {context}",
            f"Set max_completion_length to {context - int(prompt['max'])} or less, or reduce max_pixels.",
        )
    else:
        yield ok(name, f"{found}; both fit (max_completion_length {limit}, context {context})")

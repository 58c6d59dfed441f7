# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts ms-swift's grounding JSONL to detection records and back.

A line holds `messages` with the tags `<ref-object>` and `<bbox>`, `images`, and `objects`: `ref` and `bbox`, which
fill the tags in order. Boxes are xyxy, in pixels of the image file (`bbox_type` `real`, the default) or divided by
width and height (`norm1`). ms-swift itself rewrites them as its model needs: for Qwen2.5-VL to pixels of the resized
image, for most others, Qwen3-VL among them, to 0..1000.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.exporting import BoxedImage, export_lines
from coordexp_trl.datasets.json_lines import box_numbers, need, read_json_lines
from coordexp_trl.datasets.record_builder import RecordBuilder
from coordexp_trl.records import DetectionRecord

PROMPT = "Locate every object in the image and output the bbox coordinates in JSON format."
ANSWER_ITEM = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'
BOX_TYPES = ("real", "norm1")
DECIMALS = 4  # of a pixel, for boxes between 0 and 1
CONVENTION = 'ms-swift boxes are xyxy in pixels, or between 0 and 1 where objects has "bbox_type": "norm1".'
MEDIA_TAGS = ("<video>", "<audio>", "<ref-object>", "<bbox>")
_TAGS = re.compile("<ref-object>|<bbox>")


def convert_ms_swift(
    annotations: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    rename: str | Path | None = None,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts a grounding dataset of ms-swift to a JSONL file of detection records in pixels, one an image.

    Args:
        annotations (`str` or `Path`):
            The dataset, one JSON object a line. Lines without `objects` are counted and left out.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        images (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of the dataset.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps names to descriptions, see [`Renames`].
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether images without a file are counted and left out rather than an error.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether boxes that look like another convention are an error, see [`suspect_convention`].

    Returns:
        [`ConversionReport`]: the counts. Points and boxes without a reference are counted as dropped.

    Raises:
        `ValueError`: if a file, image or field is missing or malformed. The message names file, line and value.
    """
    folder = Path(annotations).parent if images is None else images
    builder = RecordBuilder(folder, out, rename, skip_missing_images, check_convention, CONVENTION)

    def records() -> Iterator[DetectionRecord]:
        for place, row in tqdm(read_json_lines(annotations), desc="Converting", unit="line"):
            if row.get("objects") is None:
                builder.report.notes["line without objects"] += 1
            else:
                yield from _convert(row, place, builder)

    return builder.write(records())


def _convert(row: dict, place: str, builder: RecordBuilder) -> Iterator[DetectionRecord]:
    objects = need(row, "objects", dict, f"{place}: ")
    paths = [builder.path_of(name, f"{place}: images") for name in _image_names(row, place)]
    box_type = objects.get("bbox_type") or "real"
    if box_type not in BOX_TYPES:
        raise ValueError(f"{place}: objects.bbox_type = {box_type!r}: must be one of {', '.join(BOX_TYPES)}.")
    boxes = need(objects, "bbox", list, f"{place}: objects.")
    image_ids = objects.get("image_id") or []
    if not isinstance(image_ids, list):
        raise ValueError(f"{place}: objects.image_id = {shorten(image_ids)}: must be a list, an image for each box.")
    image_ids = [*image_ids, *[0] * (len(boxes) - len(image_ids))]  # as ms-swift does
    for index, image_id in enumerate(image_ids[: len(boxes)]):
        if type(image_id) is not int or not 0 <= image_id < len(paths):
            raise ValueError(f"{place}: objects.image_id[{index}] = {image_id!r}: the line has {len(paths)} images.")
    if not paths:
        builder.report.notes["line without images"] += 1
    refs = _refs_of_boxes(row, objects, len(boxes), place)
    for image_index, path in enumerate(paths):
        mine = [index for index, image_id in enumerate(image_ids[: len(boxes)]) if image_id == image_index]
        if len(paths) > 1 and not mine:
            builder.report.notes["image without boxes beside others, left out"] += 1
            continue
        image = builder.find(path, place, len(mine))
        if image is None:
            continue
        named = []
        for index in mine:
            box, where = boxes[index], f"{place}: objects.bbox[{index}]"
            if isinstance(box, list) and len(box) == 2:
                builder.drop("point")
                continue
            values = box_numbers(box, where)
            if box_type == "norm1":
                sides = (image.width, image.height) * 2
                values = tuple(round(value * side, DECIMALS) for value, side in zip(values, sides, strict=True))
            named.append((refs[index], values))
        yield builder.record(image, named)


def _image_names(row: dict, place: str) -> list[str]:
    images = row.get("images", row.get("image"))
    images = images if isinstance(images, list) else [images]
    names = [image.get("path") if isinstance(image, dict) else image for image in images]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{place}: images = {shorten(images)}: must hold paths of image files.")
        if name.startswith(("http://", "https://", "data:")):
            raise ValueError(f"{place}: images: {shorten(name)} is no file. Save the image and name its path.")
    return names


def _refs_of_boxes(row: dict, objects: dict, num_boxes: int, place: str) -> list[str]:
    """
    The reference of each box: by index if there are as many, else the one whose tag stands before the box's tag, as in
    "Find <ref-object>" answered by "<bbox><bbox>"; blank if there is none.
    """
    refs = objects.get("ref") or []
    if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs):
        raise ValueError(f"{place}: objects.ref = {shorten(refs)}: must be a list of texts.")
    if len(refs) == num_boxes:
        return refs
    found, current, waiting = [], "", iter(refs)
    for tag in _TAGS.findall("".join(_texts(row, place))):
        if tag == "<bbox>":
            found.append(current)
        else:
            current = next(waiting, "")
    return [*found, *[""] * num_boxes][:num_boxes]


def _texts(row: dict, place: str) -> Iterator[str]:
    for message in need(row, "messages", list, f"{place}: "):
        content: Any = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            raise ValueError(f"{place}: messages: {shorten(message)}: must have content that is text.")
        yield content


def export_ms_swift(
    data: str | Path,
    out: str | Path,
    image_root: str | Path | None = None,
    image_paths: str = "absolute",
    prompt: str = PROMPT,
) -> ConversionReport:
    """
    Exports detection records as a grounding dataset of ms-swift: boxes in pixels, `bbox_type` `real`.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or coordinate tokens.
        out (`str` or `Path`):
            JSONL file to write.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        image_paths (`str`, *optional*, defaults to `"absolute"`):
            `"absolute"`, or `"relative"` to `image_root`.
        prompt (`str`, *optional*, defaults to [`PROMPT`]):
            The user's message, after the image.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if the records are malformed, or the prompt holds a tag of ms-swift.
    """
    user = user_message(prompt, MEDIA_TAGS, "")

    def to_row(record: BoxedImage, report: ConversionReport) -> dict:
        quoted = sum('"' in desc or "\\" in desc for desc in record.descs)
        if quoted:  # ms-swift puts the reference as it is between the quotation marks of the answer
            report.notes["description with quotation mark or backslash"] += quoted
        answer = f"[{', '.join([ANSWER_ITEM] * len(record.boxes))}]"
        # Always floats: readers of JSONL infer one type for the column from its first lines
        boxes = [[float(value) for value in box] for box in record.boxes]
        return {
            "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
            "images": [record.image],
            "objects": {"ref": record.descs, "bbox": boxes, "bbox_type": "real"},
        }

    return export_lines(data, out, to_row, image_root, image_paths)


def user_message(prompt: str, forbidden: tuple[str, ...], separator: str) -> str:
    """Returns a prompt with its image tag, put at the front if missing; raises `ValueError` for a tag too many."""
    tag = next((tag for tag in forbidden if tag in prompt), "<image>" if prompt.count("<image>") > 1 else None)
    if tag is not None or not prompt.strip():
        problem = "must not be blank" if tag is None else f"has one {tag} too many"
        raise ValueError(f"prompt = {shorten(prompt)}: {problem}. It is one image and what is asked of it.")
    return prompt if "<image>" in prompt else f"<image>{separator}{prompt}"

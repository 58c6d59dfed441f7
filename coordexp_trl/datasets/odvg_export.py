# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Exports detection records to ODVG, the JSONL of Open-GroundingDINO and MM-Grounding-DINO."""

from pathlib import Path

from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.exporting import BoxedImage, export_lines
from coordexp_trl.datasets.json_lines import write_json_lines
from coordexp_trl.datasets.odvg import FIELDS


def export_odvg(
    data: str | Path,
    out: str | Path,
    label_map: str | Path | None = None,
    field: str = "detection",
    image_root: str | Path | None = None,
    image_paths: str = "relative",
) -> ConversionReport:
    """
    Exports detection records as an ODVG file, boxes xyxy in pixels.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or coordinate tokens.
        out (`str` or `Path`):
            JSONL file to write.
        label_map (`str` or `Path`, *optional*):
            JSON file to write for `"detection"`, `{"0": "person"}`: descriptions in order of their first appearance.
            Defaults to `out` with the ending `_label_map.json`.
        field (`str`, *optional*, defaults to `"detection"`):
            `"detection"`, instances with labels; or `"grounding"`, phrases of a caption that is made of all the
            descriptions of the image. Records without objects have no caption and are left out of `"grounding"`.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        image_paths (`str`, *optional*, defaults to `"relative"`):
            `"absolute"`, or `"relative"` to `image_root`, which is then the tools' image folder.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if the records are malformed, or an image lies outside `image_root` and paths are relative.
    """
    if field not in FIELDS:
        raise ValueError(f"field = {field!r}: must be one of {', '.join(FIELDS)}.")
    if field == "grounding" and label_map is not None:
        raise ValueError("label_map: belongs to field = 'detection'; a file of phrases has none.")
    map_path = Path(label_map) if label_map is not None else Path(out).with_name(f"{Path(out).stem}_label_map.json")
    if map_path.is_dir():
        raise ValueError(f"label_map = {str(map_path)!r}: is a folder. Give the path of a JSON file.")
    labels: dict[str, int] = {}

    def to_row(record: BoxedImage, report: ConversionReport) -> dict | None:
        row = {"filename": record.image, "height": record.height, "width": record.width}
        if field == "detection":
            return row | {"detection": {"instances": _instances(record, labels)}}
        if not record.descs:
            report.notes["record without objects, left out"] += 1
            return None
        return row | {"grounding": _grounding(record)}

    report = export_lines(data, out, to_row, image_root, image_paths)
    if field == "detection":
        write_json_lines([{str(label): name for name, label in labels.items()}], map_path)
    return report


def _instances(record: BoxedImage, labels: dict[str, int]) -> list[dict]:
    return [
        {"bbox": list(box), "label": labels.setdefault(desc, len(labels)), "category": desc}
        for desc, box in zip(record.descs, record.boxes, strict=True)
    ]


def _grounding(record: BoxedImage) -> dict:
    """Caption "cat. dog." and regions; `tokens_positive` are the characters of the phrase, which MMDetection reads."""
    caption, spans = "", {}
    for desc in dict.fromkeys(record.descs):
        start = len(caption) + (1 if caption else 0)
        caption += f"{' ' if caption else ''}{desc}."
        spans[desc] = [[start, start + len(desc)]]
    regions = [
        {"phrase": desc, "bbox": list(box), "tokens_positive": spans[desc]}
        for desc, box in zip(record.descs, record.boxes, strict=True)
    ]
    return {"caption": caption, "regions": regions}

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts LVIS annotations to detection records: version 1.0, whose images have a `coco_url`, and 0.5 (`file_name`).

LVIS is federated (Gupta et al., 2019): of an image only some categories are known. Those of its objects are present,
`neg_category_ids` are absent, and in `not_exhaustive_category_ids` further objects may lack an annotation. A detection
of any other category is neither right nor wrong. The records keep these ids, and the ids and frequencies of the
objects' categories, so that federated AP can be computed from them.
"""

from pathlib import Path

from coordexp_trl.coordinates import shorten
from coordexp_trl.datasets.coco import convert_annotations
from coordexp_trl.datasets.coco_annotations import CocoAnnotations, read_annotations
from coordexp_trl.datasets.conversion import ConversionReport

FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


def convert_lvis(
    annotations: str | Path,
    images: str | Path | None,
    out: str | Path,
    geometry: str = "box",
    rename: str | Path | None = None,
    skip_unannotated: bool = False,
    skip_missing_images: bool = False,
    check_convention: bool = True,
) -> ConversionReport:
    """
    Converts a file of LVIS annotations to a JSONL file of detection records in pixels.

    All is as in [`convert_coco`]; in addition `metadata` holds `neg_category_ids` and `not_exhaustive_category_ids` of
    the image, and `frequencies`, one of `"r"`, `"c"` and `"f"` (rare, common, frequent) for each object.

    Args:
        annotations (`str` or `Path`):
            The JSON file, LVIS 1.0 or 0.5.
        images (`str` or `Path`, *optional*):
            Folder of the COCO images. The file of an image is `file_name`, else the last two parts or the last part
            of the path of its `coco_url`: `DIR/train2017/000000391895.jpg` or `DIR/000000391895.jpg`. With `None`
            nothing is checked: paths and sizes are those of the JSON file.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        geometry (`str`, *optional*, defaults to `"box"`):
            `"box"`, `"polygon"` or `"parts"`, see [`convert_coco`].
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps category names to descriptions, see [`Renames`].
        skip_unannotated (`bool`, *optional*, defaults to `False`):
            Whether to leave out images of which no object is written, rather than to write an empty record.
        skip_missing_images (`bool`, *optional*, defaults to `False`):
            Whether to leave out images whose file is missing, rather than to stop.
        check_convention (`bool`, *optional*, defaults to `True`):
            Whether to stop if the boxes seem to be something else than x, y, width, height in pixels.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: as [`convert_coco`], and if the federated fields or frequencies are missing.
    """
    content = read_annotations(annotations)
    frequencies = check_federated(content)

    def more_metadata(image: dict, category_ids: list[int]) -> dict:
        federated = {key: image[key] for key in FEDERATED_KEYS}
        return federated | {"frequencies": [frequencies[category_id] for category_id in category_ids]}

    return convert_annotations(
        content,
        images,
        out,
        geometry=geometry,
        rename=rename,
        skip_unannotated=skip_unannotated,
        skip_missing_images=skip_missing_images,
        check_convention=check_convention,
        more_metadata=more_metadata,
    )


def check_federated(content: CocoAnnotations) -> dict[int, str]:
    """Returns each category's frequency; raises `ValueError` if one, or a federated field of an image, is missing."""
    remedy = "LVIS files have it; convert COCO instances as COCO."
    for index, image in enumerate(content.images):
        for key in FEDERATED_KEYS:
            ids = image.get(key)
            if not isinstance(ids, list) or not all(type(each) is int for each in ids):
                place = content.image_place(index)
                raise ValueError(f"{place}.{key} = {shorten(ids)}: must be a list of category ids. {remedy}")
    frequencies = {}
    for category_id, category in content.categories.items():
        frequency = frequencies[category_id] = category.get("frequency")
        if frequency not in FREQUENCIES:
            place = f"{content.path}: category {category_id} ({category['name']})"
            raise ValueError(f"{place}.frequency = {shorten(frequency)}: must be 'r', 'c' or 'f'. {remedy}")
    return frequencies

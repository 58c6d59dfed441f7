# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Where a YOLO dataset keeps its classes, images and label files, by the rules of Ultralytics."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class YoloDataset:
    """The classes by index, the numbers of keypoints that follow each box, and what else `data.yaml` holds."""

    path: Path
    names: dict[int, str]
    keypoint_values: int
    content: dict


@dataclass(frozen=True)
class YoloImage:
    """An image, its label file (which may not exist), and where the image is named, for messages."""

    path: Path
    label: Path
    place: str


@dataclass(frozen=True)
class YoloImages:
    """The images to convert, and the folders that hold their label files and no others; empty for lists of images."""

    items: list[YoloImage]
    label_folders: list[Path]


def read_dataset(path: Path) -> YoloDataset:
    """
    Reads the classes of a dataset.

    Args:
        path (`Path`):
            `data.yaml`, with `names` as list or mapping, or a text file with one class name a line.

    Returns:
        [`YoloDataset`]

    Raises:
        `ValueError`: if the file cannot be read or its classes are malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"names = {str(path)!r}: cannot be read ({error}).") from error
    if content is None:
        content = {"names": [line.strip() for line in text.rstrip().splitlines()]}
    if not isinstance(content, dict):
        raise ValueError(f"names = {str(path)!r}: must hold one mapping with the key 'names'.")
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names:
        raise ValueError(
            f"{path}: names = {names!r}: must be a list of class names, or a mapping of indices to names."
        )
    for index, name in names.items():
        if type(index) is not int or index < 0 or type(name) not in (str, int, float) or not str(name).strip():
            raise ValueError(f"{path}: names[{index!r}] = {name!r}: must be an index from 0 and a name. Quote it.")
    count = content.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"{path}: nc = {count!r}, but names holds {len(names)} classes.")
    return YoloDataset(path, {index: str(name) for index, name in names.items()}, _keypoints(path, content), content)


def _keypoints(path: Path, content: dict) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(
            f"{path}: kpt_shape = {shape!r}: must be two integers, number of keypoints and of their values."
        )
    return shape[0] * shape[1]


def list_images(
    dataset: YoloDataset, split: str | None, images: str | Path | None, labels: str | Path | None
) -> YoloImages:
    """
    Lists images and their label files.

    Args:
        dataset ([`YoloDataset`]):
            The dataset.
        split (`str`, *optional*):
            Split of `data.yaml`. Exactly one of `split` and `images` is needed.
        images (`str` or `Path`, *optional*):
            Folder of the images or text file that lists them.
        labels (`str` or `Path`, *optional*):
            Folder of the label files. Defaults to the last folder `images` in the path of an image replaced by
            `labels`.

    Returns:
        [`YoloImages`]: the images, sorted by path within a folder and in file order within a list.

    Raises:
        `ValueError`: if a folder or list is missing, malformed or empty.
    """
    if (split is None) == (images is None):
        raise ValueError(
            "split, images: give exactly one of them, a split of data.yaml or a folder or list of images."
        )
    labels = None if labels is None else Path(labels)
    if labels is not None and not labels.is_dir():
        raise ValueError(f"labels = {str(labels)!r}: no such folder.")
    items, folders = [], []
    for source in [Path(images)] if images is not None else _split_sources(dataset, split):
        if source.is_dir():
            found = _of_folder(source, labels)
            folder = labels or _label_of(source / "x.jpg", source, None).parent
            if folder != Path(os.path.abspath(source)):  # labels beside the images may have other texts beside them
                folders.append(folder)
        elif source.is_file():
            found = _of_list(source, labels)
        else:
            raise ValueError(f"images = {str(source)!r}: no such folder, nor a text file that lists images.")
        if not found:
            raise ValueError(f"images = {str(source)!r}: holds no image.")
        items += found
    return YoloImages(items, folders)


def unused_labels(listed: YoloImages) -> list[Path]:
    """The label files, in folders of nothing else, that belong to no image; `classes.txt` of LabelImg is none."""
    used = {os.path.abspath(item.label) for item in listed.items}
    files = {path for folder in listed.label_folders for path in folder.rglob("*.txt") if path.name != "classes.txt"}
    return sorted(path for path in files if os.path.abspath(path) not in used)


def _of_folder(folder: Path, labels: Path | None) -> list[YoloImage]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [YoloImage(path, _label_of(path, folder, labels), str(path)) for path in paths if path.name[0] != "."]


def _of_list(path: Path, labels: Path | None) -> list[YoloImage]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"images = {str(path)!r}: cannot be read ({error}).") from error
    items = []
    for number, line in enumerate(lines, start=1):
        name, place = line.strip(), f"{path}:{number}"
        if not name:
            continue
        if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(f"{place}: {name!r} leaves the folder of the list. Write an absolute path.")
        image = path.parent / name
        items.append(YoloImage(image, _label_of(image, path.parent, labels), place))
    return items


def _label_of(image: Path, root: Path, labels: Path | None) -> Path:
    """The label file of an image: at the same place below `labels`, else by name there, else by Ultralytics' rule."""
    if labels is not None:
        at_same_place = labels / (image.relative_to(root) if image.is_relative_to(root) else image.name)
        candidates = (at_same_place.with_suffix(".txt"), (labels / image.name).with_suffix(".txt"))
        return next((path for path in candidates if path.is_file()), candidates[0])
    parts = list(Path(os.path.abspath(image)).parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[:-1][::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _split_sources(dataset: YoloDataset, split: str) -> list[Path]:
    value: Any = dataset.content.get(split)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text.strip() for text in values):
        raise ValueError(
            f"{dataset.path}: {split} = {value!r}: must be a folder or list of images, or several of them."
        )
    root = dataset.content.get("path") or "."
    if not isinstance(root, str):
        raise ValueError(f"{dataset.path}: path = {root!r}: must be the folder of the dataset.")
    # Ultralytics takes `path` from the working folder; the folder of the file goes first, as the surer one
    roots = [dataset.path.parent / root, Path(root)]
    tails = [[text, text.removeprefix("../")] for text in values]  # Roboflow writes ../train/images for train/images
    sources = []
    for options in tails:
        candidates = [folder / text for text in options for folder in roots]
        found = next((path for path in candidates if path.exists()), None)
        if found is None:
            looked = ", ".join(dict.fromkeys(map(str, candidates)))
            raise ValueError(f"{dataset.path}: {split} = {options[0]!r}: no such folder or list; looked for {looked}.")
        sources.append(found)
    return sources

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Converts Pascal VOC annotations (one XML file an image) to detection records.

Two coordinate conventions go by this name. The original PASCAL VOC files hold 1-based pixel indices, both ends
included: a box over the whole of a 500-pixel row is 1..500. LabelImg and most tools after it write continuous edges
from 0, there the same box is 0..500; BCCD is such a set. Nothing in a file tells which one it follows, so continuous
edges are the default and `one_based` is for the original sets: `x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax`.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from coordexp_trl.datasets.conversion import ConversionReport, clip_box, image_reference, read_size
from coordexp_trl.datasets.renames import Renames
from coordexp_trl.records import DetectionObject, DetectionRecord, write_records

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def convert_voc(
    annotations: str | Path,
    images: str | Path,
    out: str | Path,
    split_file: str | Path | None = None,
    one_based: bool = False,
    skip_difficult: bool = False,
    rename: str | Path | None = None,
) -> ConversionReport:
    """
    Converts a folder of Pascal VOC files to a JSONL file of detection records in pixels.

    Boxes are clipped to the image, and boxes without area are left out; both are counted. Width and height are those
    of the image file. The output appears complete or not at all.

    Args:
        annotations (`str` or `Path`):
            Folder of the XML files.
        images (`str` or `Path`):
            Folder of the images. The image of `a.xml` is `a` with the suffix of its `<filename>`, else `a.jpg`,
            `a.jpeg` or `a.png`, else the file that `<filename>` names.
        out (`str` or `Path`):
            JSONL file to write. Images below its folder are referred to by relative paths, others by absolute ones.
        split_file (`str` or `Path`, *optional*):
            Text file with one id (`a` for `a.xml`) a line, in the order of the output. Defaults to all XML files,
            sorted by name.
        one_based (`bool`, *optional*, defaults to `False`):
            Whether boxes are 1-based inclusive pixel indices, as in the original PASCAL VOC, rather than continuous
            edges from 0.
        skip_difficult (`bool`, *optional*, defaults to `False`):
            Whether to leave out objects marked `difficult`.
        rename (`str` or `Path`, *optional*):
            JSON or YAML file that maps class names to descriptions, see [`Renames`].

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if a folder, image or field is missing or malformed, the size in the XML file is not that of the
        image, or the split file names an unknown id. The message names file, field and value.
    """
    annotations, images, out = Path(annotations), Path(images), Path(out)
    for name, folder in (("annotations", annotations), ("images", images)):
        if not folder.is_dir():
            raise ValueError(f"{name} = {str(folder)!r}: no such folder.")
    if out.is_dir():
        raise ValueError(f"out = {str(out)!r}: is a folder. Give the path of a JSONL file.")
    # Hidden files are left-overs of other systems ("._a.xml" of macOS), not annotations.
    available = {path.stem: path for path in sorted(annotations.glob("*.xml")) if not path.name.startswith(".")}
    if not available:
        raise ValueError(f"annotations = {str(annotations)!r}: the folder holds no .xml file.")
    ids = list(available) if split_file is None else _read_split(Path(split_file), available, annotations)
    report, renames = ConversionReport(), Renames(rename)

    def records() -> Iterator[DetectionRecord]:
        for name in tqdm(ids, desc="Converting", unit="image"):
            yield _convert(available[name], images, out, one_based, skip_difficult, renames, report)
        renames.check()

    report.images = write_records(records(), out)
    report.check()
    return report


def _read_split(path: Path, available: dict[str, Path], annotations: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"split_file = {str(path)!r}: cannot be read ({error}).") from error
    first_seen = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        if name not in available:
            raise ValueError(
                f"{path}:{number}: id {name!r} has no file {name}.xml in {annotations}. "
                "Write one id a line, without suffix."
            )
        if name in first_seen:
            raise ValueError(f"{path}:{number}: id {name!r} stands in line {first_seen[name]} already. Remove one.")
        first_seen[name] = number
    if not first_seen:
        raise ValueError(f"split_file = {str(path)!r}: the file holds no id. Write one id a line.")
    return list(first_seen)


def _convert(
    path: Path,
    images: Path,
    out: Path,
    one_based: bool,
    skip_difficult: bool,
    renames: Renames,
    report: ConversionReport,
) -> DetectionRecord:
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: a wrong or unknown encoding
        raise ValueError(f"{path}: not well-formed XML ({error}).") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: the root element is <{root.tag}>, must be <annotation>.")
    image = _find_image(path, images, (root.findtext("filename") or "").strip())
    width, height = read_size(image, str(path))
    if not _size_agrees(path, root, image, width, height):
        report.notes["XML file without image size"] += 1

    objects = []
    for index, element in enumerate(root.findall("object")):
        report.objects_in += 1
        place = f"{path}: object[{index}]"
        desc = " ".join((element.findtext("name") or "").split())
        if not desc:
            raise ValueError(f"{place}.name: is missing or blank.")
        box = _read_box(element, place)
        if one_based:
            box = (box[0] - 1, box[1] - 1, box[2], box[3])
        desc = renames(desc)
        clipped, problem = clip_box(box, width, height)
        difficult = (element.findtext("difficult") or "").strip() == "1"
        if difficult and skip_difficult:
            report.dropped["difficult"] += 1
            continue
        if problem is not None:
            report.dropped[problem] += 1
            continue
        if clipped != box:
            report.notes["box clipped to the image"] += 1
        if difficult:
            report.notes["difficult object kept"] += 1
        report.objects_out += 1
        objects.append(DetectionObject(desc=desc, bbox_2d=clipped))
    return DetectionRecord((image_reference(image, out),), width, height, tuple(objects))


def _find_image(path: Path, images: Path, filename: str) -> Path:
    """The image of an XML file; its own name goes first, because `<filename>` is often stale after a renaming."""
    filename = PurePosixPath(filename.replace("\\", "/")).name
    suffix = PurePosixPath(filename).suffix
    names = [path.stem + known for known in IMAGE_SUFFIXES]
    if suffix:
        names = [path.stem + suffix, *names, filename]
    for name in names:
        if (images / name).is_file():
            return images / name
    raise ValueError(
        f"{path}: no image for filename = {filename!r} in {images}; looked for {', '.join(dict.fromkeys(names))}."
    )


def _size_agrees(path: Path, root: ET.Element, image: Path, width: int, height: int) -> bool:
    """Whether the XML file states the size of the image; `False` if it states none, an error if another one."""
    stated = []
    for name in ("width", "height"):
        text = root.findtext(f"size/{name}")
        if text is None or not text.strip():
            return False
        stated.append(_number(text, f"{path}: size.{name}"))
    if 0 in stated:
        return False
    if stated != [width, height]:
        hint = " Is the image rotated by its EXIF orientation?" if stated == [height, width] else ""
        raise ValueError(
            f"{path}: size = {stated[0]:g} x {stated[1]:g}, but {image} has {width} x {height} pixels. "
            f"Check that the images belong to the annotations.{hint}"
        )
    return True


def _read_box(element: ET.Element, place: str) -> tuple[float, float, float, float]:
    values = []
    for name in ("xmin", "ymin", "xmax", "ymax"):
        text = element.findtext(f"bndbox/{name}")
        if text is None:
            raise ValueError(f"{place}.bndbox.{name}: is missing.")
        values.append(_number(text, f"{place}.bndbox.{name}"))
    return tuple(values)


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place} = {text.strip()!r}: must be a number.")
    return value

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reports: tables and pictures in one HTML file that needs neither network nor other files."""

import base64
import io
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from coordexp_trl.evaluation.panels import COLORS
from coordexp_trl.tables import format_cell

OVERLAY_LEGEND = {
    "ground truth": COLORS["GT"],
    "true positive": COLORS["TP"],
    "false positive": COLORS["FP"],
    "duplicate, also a false positive": COLORS["duplicate"],
    "missed (dashed)": COLORS["FN"],
}
_MAX_SIZE = (2160, 16383)  # two panels of an overlay, and the most that WebP can hold; larger pictures are shrunk
_QUALITY = 75  # of lossy WebP; 24 overlays of photographs with panels 800 pixels wide take about 4 MB
_METHOD = 2  # of WebP: half the time of the default for files 2 % larger
_MAX_ENTROPY = 5.0  # bits; photographs have 6 to 8, grey ones too, and charts about 3


@dataclass(frozen=True)
class Table:
    """
    A table whose first column names the rows. Numbers are aligned to the right, and `None` is shown as a dash. More
    than 20 rows scroll below their headers.

    Args:
        title (`str`):
            Heading.
        headers (`Sequence[str]`):
            Names of the columns, at least one.
        rows (`Sequence[Sequence[object]]`):
            The rows, as long as `headers`.
        note (`str`, *optional*, defaults to `""`):
            Text below the heading; line breaks are kept.
        decimals (`int`, *optional*):
            Decimals of floats. Defaults to as many as give 4 significant digits.

    Raises:
        `ValueError`: if there is no column or a row has another length.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    decimals: int | None = None

    def __post_init__(self) -> None:
        if not self.headers:
            raise ValueError(f"headers of table {self.title!r}: is empty, name at least one column.")
        for index, row in enumerate(self.rows):
            if len(row) != len(self.headers):
                raise ValueError(
                    f"rows[{index}] of table {self.title!r} = {row!r}: has {len(row)} cells for "
                    f"{len(self.headers)} headers."
                )


@dataclass(frozen=True)
class EncodedPicture:
    """
    A picture as a page holds it, from [`encode_picture`]: far smaller than its pixels.

    Args:
        data (`bytes`):
            The WebP file.
        width (`int`), height (`int`):
            Its size in pixels.
    """

    data: bytes
    width: int
    height: int


Picture = Image.Image | Path | EncodedPicture


@dataclass(frozen=True)
class Figure:
    """
    A picture, or two side by side, with a caption.

    Args:
        image (`PIL.Image.Image`, `Path` or [`EncodedPicture`]):
            The picture, or an image file. Pixels are taken as they are stored, without EXIF orientation.
        caption (`str`, *optional*, defaults to `""`):
            Text below the picture.
        beside (`PIL.Image.Image`, `Path` or [`EncodedPicture`], *optional*):
            A picture to the right of the first, or below it on narrow screens.
    """

    image: Picture
    caption: str = ""
    beside: Picture | None = None


@dataclass(frozen=True)
class Gallery:
    """
    Pictures in columns; on narrow screens there is one column. In several columns a click enlarges a picture.

    Args:
        title (`str`):
            Heading.
        figures (`Sequence[Figure]`):
            The pictures, from left to right and top to bottom.
        note (`str`, *optional*, defaults to `""`):
            Text below the heading; line breaks are kept.
        columns (`int`, *optional*, defaults to `1`):
            Pictures in a row.
        legend (`Mapping[str, tuple[int, int, int]]`, *optional*):
            RGB colours by meaning, shown below the note, such as `OVERLAY_LEGEND`.

    Raises:
        `ValueError`: if there is no column.
    """

    title: str
    figures: Sequence[Figure]
    note: str = ""
    columns: int = 1
    legend: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ValueError(f"columns of gallery {self.title!r} = {self.columns}: must be at least 1.")


def write_report(
    path: str | os.PathLike,
    title: str,
    sections: Sequence[Table | Gallery],
    intro: str = "",
    details: Mapping[str, str] | None = None,
) -> Path:
    """
    Writes one HTML file that holds everything it shows. The file appears complete or not at all, and the same
    arguments give the same file.

    Args:
        path (`str` or `os.PathLike`):
            File to write, such as `report.html`; missing folders are made.
        title (`str`):
            Title of the page.
        sections (`Sequence[Table | Gallery]`):
            What the page shows, in this order.
        intro (`str`, *optional*, defaults to `""`):
            Text below the title; line breaks are kept.
        details (`Mapping[str, str]`, *optional*):
            Preformatted texts by heading, such as the resolved configuration, folded up at the end of the page.

    Returns:
        `Path`: the file.

    Raises:
        `ValueError`: if the file of a figure cannot be read as an image.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    views = [_table_view(section) if isinstance(section, Table) else _gallery_view(section) for section in sections]
    html = template.render(title=title, intro=intro, sections=views, details=details or {})

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(html.encode("utf-8", "replace"))  # names of files may hold lone surrogates
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _table_view(table: Table) -> dict[str, object]:
    """What the template needs of a table: cells as text, and which columns are numeric."""
    numeric = [
        index > 0 and all(row[index] is None or isinstance(row[index], numbers.Real) for row in table.rows)
        for index in range(len(table.headers))
    ]
    rows = [[format_cell(cell, table.decimals) for cell in row] for row in table.rows]
    return {
        "kind": "table",
        "title": table.title,
        "note": table.note,
        "headers": table.headers,
        "numeric": numeric,
        "rows": rows,
    }


def _gallery_view(gallery: Gallery) -> dict[str, object]:
    """What the template needs of a gallery: pictures as data URIs with their sizes, and colours as hex."""
    figures = []
    for figure in gallery.figures:
        sources = [figure.image] if figure.beside is None else [figure.image, figure.beside]
        figures.append({"pictures": [_picture_view(source) for source in sources], "caption": figure.caption})
    return {
        "kind": "gallery",
        "title": gallery.title,
        "note": gallery.note,
        "columns": gallery.columns,
        "figures": figures,
        "legend": {text: "#{:02x}{:02x}{:02x}".format(*color) for text, color in gallery.legend.items()},
    }


def _picture_view(source: Picture) -> dict[str, object]:
    picture = source if isinstance(source, EncodedPicture) else encode_picture(source)
    uri = "data:image/webp;base64," + base64.b64encode(picture.data).decode("ascii")
    return {"uri": uri, "width": picture.width, "height": picture.height}


def encode_picture(source: Image.Image | str | os.PathLike) -> EncodedPicture:
    """
    Encodes a picture for a report.

    Args:
        source (`PIL.Image.Image`, `str` or `os.PathLike`):
            The picture, or an image file.

    Returns:
        [`EncodedPicture`]: it as WebP, at most 2160 pixels wide.

    Raises:
        `ValueError`: if the file cannot be read as an image.
    """
    image = _load_picture(source)
    return EncodedPicture(_encode(image), *image.size)


def _load_picture(source: Image.Image | str | os.PathLike) -> Image.Image:
    """The picture in RGB or RGBA, at most `_MAX_SIZE` large."""
    if isinstance(source, Image.Image):
        image = source
    else:
        try:
            with Image.open(source) as image:
                image.load()
        except OSError as error:
            raise ValueError(f"image = {str(source)!r}: cannot be read as an image ({error}).") from error
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail(_MAX_SIZE)
    return image


def _encode(image: Image.Image) -> bytes:
    """As lossless WebP where that is cheap, as for charts, whose thin coloured lines lossy compression blurs."""
    lossy = _webp(image, quality=_QUALITY)
    if image.entropy() > _MAX_ENTROPY:  # trying takes ten times as long as lossy compression
        return lossy
    lossless = _webp(image, lossless=True)
    return lossless if len(lossless) <= 2 * len(lossy) else lossy


def _webp(image: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", method=_METHOD, **options)
    return file.getvalue()

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

from coordexp_trl.evaluation.pictures import COLORS
from coordexp_trl.tables import format_cell

OVERLAY_LEGEND = {
    "ground truth": COLORS["GT"],
    "true positive": COLORS["TP"],
    "false positive": COLORS["FP"],
    "missed (dashed)": COLORS["FN"],
}
_MAX_SIZE = (2160, 16383)  # two panels of an overlay, and the most that WebP can hold; larger pictures are shrunk
_QUALITY = 75  # of lossy WebP; 24 overlays of photographs with panels 800 pixels wide take about 4 MB
_FEW_COLORS = 4096  # photographs have more, charts fewer


@dataclass(frozen=True)
class Table:
    """
    A table whose first column names the rows. Numbers are aligned to the right, floats get 4 significant digits, and
    `None` is shown as a dash.

    Args:
        title (`str`):
            Heading.
        headers (`Sequence[str]`):
            Names of the columns, at least one.
        rows (`Sequence[Sequence[object]]`):
            The rows, as long as `headers`.
        note (`str`, *optional*, defaults to `""`):
            Text below the heading; line breaks are kept.

    Raises:
        `ValueError`: if there is no column or a row has another length.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

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
class Figure:
    """
    A picture with a caption.

    Args:
        image (`PIL.Image.Image` or `Path`):
            The picture, or an image file. Pixels are taken as they are stored, without EXIF orientation.
        caption (`str`, *optional*, defaults to `""`):
            Text below the picture.
    """

    image: Image.Image | Path
    caption: str = ""


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
    rows = [[format_cell(cell) for cell in row] for row in table.rows]
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
        image = _load_picture(figure.image)
        uri = "data:image/webp;base64," + base64.b64encode(_encode(image)).decode("ascii")
        figures.append({"uri": uri, "width": image.width, "height": image.height, "caption": figure.caption})
    return {
        "kind": "gallery",
        "title": gallery.title,
        "note": gallery.note,
        "columns": gallery.columns,
        "figures": figures,
        "legend": {text: "#{:02x}{:02x}{:02x}".format(*color) for text, color in gallery.legend.items()},
    }


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
    if image.getcolors(_FEW_COLORS) is None:
        return lossy
    lossless = _webp(image, lossless=True)
    return lossless if len(lossless) <= 2 * len(lossy) else lossy


def _webp(image: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **options)
    return file.getvalue()

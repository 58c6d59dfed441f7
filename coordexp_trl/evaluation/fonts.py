# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Text on pictures, in any script for which there is a font.

Pillow's own font has ASCII. Texts with other characters are drawn in DejaVu Sans, which comes with matplotlib (Latin,
Cyrillic, Greek, Arabic and more); what it lacks, such as Chinese and Japanese, in the first installed font with it. A
character that no font has becomes an empty box.
"""

import os
import re
import unicodedata
from functools import cache, lru_cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

_VARIANT = re.compile("bold|italic|oblique|light|thin|medium|black|heavy|mono", re.IGNORECASE)


def draw_text(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, fill: object) -> None:
    """Draws one line of text, its upper left corner at `xy`, as far to the right as [`text_width`] says."""
    x, y = xy
    for path, part in _runs(text):
        font = _font(path, size)
        # On a common baseline: fonts differ in height
        draw.text((x, y + _font(None, size).getmetrics()[0]), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> float:
    """Returns the width of a line of text in pixels."""
    return sum(_font(path, size).getlength(part) for path, part in _runs(text))


def _runs(text: str) -> list[tuple[str | None, str]]:
    """Splits a text where the font changes; `None` is Pillow's own font."""
    if text.isascii():
        return [(None, text)] if text else []
    paths = []
    for character in text:
        # Spaces, marks and joiners stay with what is before them
        if paths and (character.isspace() or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")):
            paths.append(paths[-1])
        else:
            paths.append(_font_path(character))
    groups = groupby(zip(paths, text, strict=True), key=lambda pair: pair[0])
    return [(path, "".join(character for _, character in group)) for path, group in groups]


@lru_cache(maxsize=4096)
def _font_path(character: str) -> str:
    """The font file for a character outside ASCII, or inside for a text that has others too."""
    if ord(character) in _characters(_dejavu()):
        return _dejavu()
    return next((path for path in _installed() if ord(character) in _characters(path)), _dejavu())


@cache
def _dejavu() -> str:
    import matplotlib

    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _installed() -> list[str]:
    """Files of installed fonts, and of those that come with matplotlib; upright ones of normal weight first."""
    from matplotlib.font_manager import findSystemFonts

    # Matplotlib's own list of fonts is a cache, which misses those that were installed after it was made
    paths = {*findSystemFonts(), *findSystemFonts([os.path.dirname(_dejavu())])}
    # Last Resort has a picture for every character, but of its script and not of itself
    usable = [path for path in paths if not os.path.basename(path).startswith("LastResort")]
    return sorted(usable, key=lambda path: (bool(_VARIANT.search(os.path.basename(path))), path))


@cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font has; none of a font that cannot be used, such as one of bitmaps of a single size."""
    from matplotlib.ft2font import FT2Font

    try:
        _font(path, 13)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _font(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The sizes that images are resized to: those of Qwen's image processor."""

import math
from dataclasses import dataclass

_MAX_ASPECT_RATIO = 200


@dataclass(frozen=True)
class ResizeSettings:
    """
    Sizes and quality of resized images.

    Args:
        factor (`int`, *optional*, defaults to `32`):
            Width and height are multiples of this number of pixels; 32 for Qwen3-VL (patches of 16, merged by 2).
        max_blocks (`int`, *optional*, defaults to `768`):
            Largest area, in blocks of `factor` × `factor` pixels. A block is one image token of the model.
        min_blocks (`int`, *optional*, defaults to `4`):
            Smallest area, in blocks.
        quality (`int`, *optional*, defaults to `95`):
            Quality of JPEG files, 1 to 100.

    Raises:
        `ValueError`: if a value makes no sense.
    """

    factor: int = 32
    max_blocks: int = 768
    min_blocks: int = 4
    quality: int = 95

    def __post_init__(self) -> None:
        for name, low, high in (
            ("factor", 4, 1024),
            ("max_blocks", 1, 2**20),
            ("min_blocks", 1, self.max_blocks),
            ("quality", 1, 100),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                bound = f"max_blocks = {high}" if name == "min_blocks" else high
                raise ValueError(f"{name} = {value!r}: must be an integer from {low} to {bound}.")

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """
        Chooses the size of a resized image as `smart_resize` of transformers does for Qwen2-VL and Qwen3-VL.

        Both sides become the nearest multiples of `factor`; if the area then breaks a limit, both are scaled to meet
        it, rounded down or up. The function is not imported, because that alone takes seconds; a test compares them.

        Args:
            width (`int`), height (`int`):
                Size of the image in pixels.

        Returns:
            `tuple[int, int]`: width and height.

        Raises:
            `ValueError`: if the aspect ratio is above 200, or no such size lies within the limits.
        """
        factor = self.factor
        smallest, largest = self.min_blocks * factor**2, self.max_blocks * factor**2
        if max(width, height) / min(width, height) > _MAX_ASPECT_RATIO:
            raise ValueError(
                f"an image of {width} x {height} pixels has an aspect ratio above {_MAX_ASPECT_RATIO}. Drop the record"
            )
        new_width, new_height = round(width / factor) * factor, round(height / factor) * factor
        if new_width * new_height > largest:
            scale = math.sqrt((width * height) / largest)
            new_width, new_height = (
                max(factor, math.floor(side / scale / factor) * factor) for side in (width, height)
            )
        elif new_width * new_height < smallest:
            scale = math.sqrt(smallest / (width * height))
            new_width, new_height = (math.ceil(side * scale / factor) * factor for side in (width, height))
        if not smallest <= new_width * new_height <= largest:  # the shape does not allow it
            raise ValueError(
                f"an image of {width} x {height} pixels would become {new_width} x {new_height}, outside "
                f"{self.min_blocks} to {self.max_blocks} blocks of {factor} x {factor} pixels. Widen the limits, or "
                "drop the record"
            )
        return new_width, new_height

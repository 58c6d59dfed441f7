# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Exports detection records as conversations of ms-swift in which coordinates are tokens, as Stage-1 learns them."""

from pathlib import Path

from coordexp_trl.checkpoint_files import load_tokenizer
from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.exporting import BoxedImage, export_lines
from coordexp_trl.datasets.ms_swift import MEDIA_TAGS, user_message
from coordexp_trl.generation.prompts import DEFAULT_PROMPT
from coordexp_trl.protocols import get_protocol
from coordexp_trl.sequences import ground_truth

# What a template of ms-swift replaces, wherever it stands
TEMPLATE_TAGS = ("<image>", *MEDIA_TAGS, "<cot-process>", "<start-image>")


def export_ms_swift_tokens(
    data: str | Path,
    out: str | Path,
    model: str | Path,
    protocol: str = "tags",
    image_root: str | Path | None = None,
    image_paths: str = "absolute",
    prompt: str = DEFAULT_PROMPT,
) -> ConversionReport:
    """
    Exports detection records as a dataset of ms-swift whose answers are what Stage-1 learns: the objects of an image
    in canonical order, as text with one token a coordinate. ms-swift tokenizes it and leaves it as it is.

    Args:
        data (`str` or `Path`):
            JSONL file of detection records, in pixels or coordinate tokens.
        out (`str` or `Path`):
            JSONL file to write.
        model (`str` or `Path`):
            Checkpoint folder with coordinate tokens, the one to train. Its tokenizer decides which descriptions can be
            written.
        protocol (`str`, *optional*, defaults to `"tags"`):
            `"tags"` or `"json"`.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start. Defaults to the folder of `data`.
        image_paths (`str`, *optional*, defaults to `"absolute"`):
            `"absolute"`, or `"relative"` to `image_root`.
        prompt (`str`, *optional*, defaults to [`DEFAULT_PROMPT`]):
            The user's message, after the image; that of Stage-1.

    Returns:
        [`ConversionReport`]: the counts.

    Raises:
        `ValueError`: if the records are malformed, a description cannot be written or holds a tag of ms-swift, or the
            checkpoint has no coordinate tokens.
    """
    writer = get_protocol(protocol, load_tokenizer(Path(model), "model"))
    grid = CoordinateGrid(writer.vocabulary.num_bins)
    user = user_message(prompt, TEMPLATE_TAGS[1:], "")

    def to_row(image: BoxedImage, report: ConversionReport) -> dict:
        for desc in image.descs:
            if (tag := next((tag for tag in TEMPLATE_TAGS if tag in desc), None)) is not None:
                raise ValueError(f"{image.place}: desc = {desc!r}: ms-swift would replace {tag}. Rewrite that part.")
        try:
            answer = writer.serialize(ground_truth(image.record, grid))
        except ValueError as error:
            raise ValueError(f"{image.place}: {error}") from error
        return {
            "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
            "images": [image.image],
        }

    return export_lines(data, out, to_row, image_root, image_paths)

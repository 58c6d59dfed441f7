# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data export qwen`."""

import argparse

from coordexp_trl.cli.data.export.options import add_prompt, add_shared, shared
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "qwen", "export for Qwen's own fine-tuning recipe", _run)
    add_shared(parser, image_paths="absolute")
    add_prompt(parser)
    parser.add_argument(
        "--coordinates",
        choices=("thousand", "pixels"),
        default="thousand",
        help="0..1000 of width and height, for Qwen3-VL; or pixels of the resized image, for Qwen2.5-VL",
    )
    parser.add_argument(
        "--min-pixels",
        type=int,
        default=12544,
        metavar="N",
        help="with pixels: fewest pixels of an image, as in training",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=451584,
        metavar="N",
        help="with pixels: most pixels of an image, as in training",
    )


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.qwen import export_qwen

    report = export_qwen(
        **shared(args), coordinates=args.coordinates, min_pixels=args.min_pixels, max_pixels=args.max_pixels
    )
    print_table(report.rows())
    print(f"wrote {args.out}")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data resize`: images and geometry in the sizes of Qwen's image processor."""

import argparse

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "resize", "resize images and geometry to the sizes of Qwen's image processor", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="records to resize")
    parser.add_argument(
        "--out",
        metavar="DIR|FILE.jsonl",
        help="file to write, or a folder for a file of the same name; images go to images/ beside it",
        required=True,
    )
    parser.add_argument("--factor", type=int, default=32, metavar="N", help="sizes are multiples of N pixels")
    parser.add_argument("--max-blocks", type=int, default=768, metavar="N", help="largest area, in factor × factor")
    parser.add_argument("--min-blocks", type=int, default=4, metavar="N", help="smallest area, in factor × factor")
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="quality of JPEG files, 1 to 100")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes (default: the number of CPUs)")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out records of unusable images")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.resize import output_file, resize_records
    from coordexp_trl.datasets.resize_settings import ResizeSettings

    report = resize_records(
        args.data,
        args.out,
        settings=ResizeSettings(args.factor, args.max_blocks, args.min_blocks, args.quality),
        image_root=args.image_root,
        num_workers=args.num_workers,
        skip_bad_images=args.skip_bad_images,
    )
    print_table(report.rows())
    print(f"wrote {output_file(args.data, args.out)}")

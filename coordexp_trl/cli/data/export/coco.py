# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data export coco`."""

import argparse

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "coco", "export detection records as COCO instances", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="detection records")
    parser.add_argument("--out", metavar="FILE.json", help="file to write", required=True)
    parser.add_argument(
        "--image-root",
        metavar="DIR",
        help="folder at which relative image paths of the records start (default: the folder of the records)",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder at which file_name shall start, the one for `coordexp data convert coco --images` (default: the "
        "image root, and absolute paths for images elsewhere)",
    )


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.coco_export import export_coco

    report = export_coco(args.data, args.out, image_root=args.image_root, images=args.images)
    print_table(report.rows())
    print(f"wrote {args.out}")

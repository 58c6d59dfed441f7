# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert coco`."""

import argparse
from typing import Any

from coordexp_trl.cli.parser import CommandParser, add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    add_options(add_command(commands, "coco", "convert COCO instances (one JSON file)", _run))


def add_options(parser: CommandParser) -> None:
    """Adds the options that COCO and LVIS share."""
    parser.add_argument("--annotations", metavar="FILE.json", help="annotation file", required=True)
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder of the images; without it paths and sizes are taken from the annotation file, unchecked",
    )
    parser.add_argument("--out", metavar="FILE.jsonl", help="file to write", required=True)
    parser.add_argument(
        "--geometry",
        choices=("box", "polygon", "parts"),
        default="box",
        help="what to write of an annotation: its box; its polygon, but its box if it has several or none; each of "
        "its polygons as an object of its own, its box if it has none",
    )
    parser.add_argument("--rename", metavar="FILE", help="JSON or YAML file that maps category names to descriptions")
    parser.add_argument(
        "--skip-unannotated",
        action="store_true",
        help="leave out images of which no object is written instead of writing an empty record",
    )
    parser.add_argument(
        "--skip-missing-images", action="store_true", help="leave out images whose file is missing instead of stopping"
    )
    parser.add_argument(
        "--no-convention-check",
        action="store_true",
        help="go on although the boxes seem to be something else than x, y, width, height in pixels",
    )


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the converter."""
    names = ("annotations", "images", "out", "geometry", "rename", "skip_unannotated", "skip_missing_images")
    return {name: getattr(args, name) for name in names} | {"check_convention": not args.no_convention_check}


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.coco import convert_coco

    report = convert_coco(**options(args))
    print_table(report.rows())
    print(f"wrote {args.out}")

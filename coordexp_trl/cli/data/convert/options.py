# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Options that several converters share."""

import argparse
from typing import Any

from coordexp_trl.cli.parser import CommandParser
from coordexp_trl.tables import print_table


def add_shared(parser: CommandParser) -> None:
    """Adds the options of every converter that checks images and boxes."""
    parser.add_argument("--out", metavar="FILE.jsonl", help="file to write", required=True)
    parser.add_argument("--rename", metavar="FILE", help="JSON or YAML file that maps class names to descriptions")
    parser.add_argument(
        "--skip-missing-images", action="store_true", help="leave out images whose file is missing instead of stopping"
    )
    parser.add_argument(
        "--no-convention-check",
        action="store_true",
        help="go on although the boxes seem to follow another coordinate convention than that of the format",
    )


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the converter that these options give."""
    names = ("out", "rename", "skip_missing_images")
    return {name: getattr(args, name) for name in names} | {"check_convention": not args.no_convention_check}


def print_report(report: Any, out: str) -> None:
    """Prints the counts of a conversion and the file written."""
    print_table(report.rows())
    print(f"wrote {out}")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert odvg`."""

import argparse

from coordexp_trl.cli.data.convert.options import add_shared, print_report, shared
from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "odvg", "convert ODVG (Open-GroundingDINO, MM-Grounding-DINO)", _run)
    parser.add_argument("--annotations", metavar="FILE.jsonl", help="ODVG file", required=True)
    parser.add_argument("--images", metavar="DIR", help="folder at which file names start", required=True)
    parser.add_argument(
        "--label-map", metavar="FILE.json", help="class names by label (default: the category of each instance)"
    )
    parser.add_argument(
        "--field",
        choices=("detection", "grounding"),
        help="what to read of lines that hold both (default: what a line holds)",
    )
    add_shared(parser)


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.odvg import convert_odvg

    report = convert_odvg(args.annotations, args.images, label_map=args.label_map, field=args.field, **shared(args))
    print_report(report, args.out)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert ms-swift`."""

import argparse

from coordexp_trl.cli.data.convert.options import add_shared, print_report, shared
from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "ms-swift", "convert a grounding dataset of ms-swift", _run)
    parser.add_argument("--annotations", metavar="FILE.jsonl", help="ms-swift dataset", required=True)
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder at which relative image paths start (default: the folder of the dataset)",
    )
    add_shared(parser)


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.ms_swift import convert_ms_swift

    report = convert_ms_swift(args.annotations, images=args.images, **shared(args))
    print_report(report, args.out)

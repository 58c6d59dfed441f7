# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data export odvg`."""

import argparse

from coordexp_trl.cli.data.export.options import add_shared, shared
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "odvg", "export ODVG (Open-GroundingDINO, MM-Grounding-DINO)", _run)
    add_shared(parser, image_paths="relative")
    parser.add_argument(
        "--field",
        choices=("detection", "grounding"),
        default="detection",
        help="what to write: instances with labels, or phrases of a caption",
    )
    parser.add_argument(
        "--label-map",
        metavar="FILE.json",
        help="class names by label, written for the detection field (default: --out with _label_map.json)",
    )


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.odvg_export import export_odvg

    report = export_odvg(**shared(args), field=args.field, label_map=args.label_map)
    print_table(report.rows())
    print(f"wrote {args.out}")

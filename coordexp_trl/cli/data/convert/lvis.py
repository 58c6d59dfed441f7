# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert lvis`."""

import argparse

from coordexp_trl.cli.data.convert.coco import add_options, options
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    add_options(add_command(commands, "lvis", "convert LVIS annotations, version 1.0 or 0.5 (one JSON file)", _run))


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.lvis import convert_lvis

    report = convert_lvis(**options(args))
    print_table(report.rows())
    print(f"wrote {args.out}")

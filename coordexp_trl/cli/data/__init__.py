# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data ...`: make, convert and inspect datasets."""

import argparse

from coordexp_trl.cli.data import convert, export, lvis, resize, sample, shapes, show, stats, tokens, validate
from coordexp_trl.cli.parser import add_group

COMMANDS = (shapes, convert, export, resize, tokens, sample, validate, stats, show, lvis)


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the group."""
    group = add_group(commands, "data", "make, convert and inspect datasets")
    for module in COMMANDS:
        module.register(group)

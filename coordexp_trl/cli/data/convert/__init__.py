# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert ...`: other formats to detection records."""

import argparse

from coordexp_trl.cli.data.convert import coco, lvis, ms_swift, odvg, visual_genome, voc, yolo
from coordexp_trl.cli.parser import add_group

COMMANDS = (coco, lvis, voc, yolo, visual_genome, odvg, ms_swift)


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the group."""
    group = add_group(commands, "convert", "convert other formats to detection records")
    for module in COMMANDS:
        module.register(group)

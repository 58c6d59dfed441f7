# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data export ...`: detection records to other formats."""

import argparse

from coordexp_trl.cli.data.export import coco, ms_swift, odvg, qwen
from coordexp_trl.cli.parser import add_group

COMMANDS = (coco, ms_swift, qwen, odvg)


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the group."""
    group = add_group(commands, "export", "export detection records to other formats")
    for module in COMMANDS:
        module.register(group)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The `coordexp` command: parse, call a function of the library, print.

Each module of `COMMANDS` has a function `register(commands)` that adds its parser; the parser's default `run` is the
function that is called with the parsed arguments. Libraries that are slow to import are imported inside `run`.
"""

import os
import sys
from collections.abc import Sequence

from coordexp_trl import __version__
from coordexp_trl.cli import data, doctor, evaluate, expand_vocab, infer, merge, report, tiny_model
from coordexp_trl.cli.parser import CommandParser

COMMANDS = (tiny_model, expand_vocab, data, infer, evaluate, merge, report, doctor)


def build_parser() -> CommandParser:
    """Returns the parser of all commands."""
    parser = CommandParser(
        prog="coordexp", description="Train and evaluate vision-language models that write detections as text."
    )
    parser.add_argument(
        "--version", action="version", version=f"coordexp {__version__}", help="print the version and exit"
    )
    commands = parser.add_commands()
    for module in COMMANDS:
        module.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs a command.

    A mistake of the user (`ValueError`) or a failure of the file system (`OSError`) is printed to stderr without a
    traceback; with the environment variable `COORDEXP_DEBUG=1` it is raised.

    Args:
        argv (`Sequence[str]`, *optional*):
            The arguments. Defaults to those of the process.

    Returns:
        `int`: the exit status: 0, or 2 after an error.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        if os.environ.get("COORDEXP_DEBUG", "0") not in ("", "0"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp expand-vocab`: coordinate tokens for a checkpoint."""

import argparse

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "expand-vocab", "add the coordinate tokens to a vision-language checkpoint", _run)
    parser.add_argument("--src", required=True, metavar="DIR", help="folder of the checkpoint; it is not changed")
    parser.add_argument("--dst", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--num-bins", type=int, default=1000, metavar="N", help="number of bins, at least 2")
    parser.add_argument("--no-wildcard", action="store_true", help="leave out the wildcard token <|coord_*|>")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint in --dst, if there is one")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.vocabulary import expand_vocabulary

    report = expand_vocabulary(
        args.src, args.dst, num_bins=args.num_bins, wildcard=not args.no_wildcard, overwrite=args.overwrite
    )
    print_table(report.rows())
    if report.written:
        print(f"wrote {args.dst}")
    else:
        print(f"{args.src} has the coordinate tokens already: nothing written, use it as it is")

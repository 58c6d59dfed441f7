# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp merge`: one plain checkpoint of an adapter and its base."""

import argparse
import sys

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "merge", "merge an adapter into its base, without loading the model", _run)
    parser.add_argument("--adapter", required=True, metavar="DIR", help="adapter folder; it is not changed")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--base", metavar="DIR", help="folder of the base, if not the one that the adapter names")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint in --out, if there is one")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not load the models to compare the logits of both"
    )


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.adapters.merge import merge_adapter

    report = merge_adapter(args.adapter, args.out, args.base, overwrite=args.overwrite, verify=not args.no_verify)
    if report.other_base:
        print(
            f"warning: the adapter was made for {report.named_base}. Make sure that --base is the same model: shapes "
            "do not tell.",
            file=sys.stderr,
        )
    print_table(report.rows())
    print(f"wrote {args.out}")

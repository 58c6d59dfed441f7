# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data tokens`: pixels to coordinate tokens, and back."""

import argparse

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "tokens", "write pixels as coordinate tokens, or the inverse", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="records to convert")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: FILE.coord.jsonl or FILE.pixels.jsonl)")
    parser.add_argument("--inverse", action="store_true", help="tokens to pixels, not rounded")
    parser.add_argument("--num-bins", type=int, default=1000, metavar="N", help="number of bins")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.tokens import convert_tokens

    out, report = convert_tokens(
        args.data, args.out, inverse=args.inverse, num_bins=args.num_bins, image_root=args.image_root
    )
    print_table(report.rows())
    print(f"wrote {out}")

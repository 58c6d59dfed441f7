# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data sample`: a fixed random subset."""

import argparse

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "sample", "draw records of a file, in its order", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="records to draw from")
    parser.add_argument("--num", type=int, metavar="N", help="number of records", required=True)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed; another seed draws other records")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: FILE_sample.jsonl)")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.sample import sample_records

    out = sample_records(args.data, args.num, args.out, seed=args.seed, image_root=args.image_root)
    print(f"wrote {args.num} records to {out}")

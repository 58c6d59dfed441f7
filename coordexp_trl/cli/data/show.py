# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data show`: pictures of records."""

import argparse

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "show", "draw the objects of records over their images", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="records to draw from")
    parser.add_argument("--out", metavar="DIR", help="folder to write: a picture each, and sheet.jpg", required=True)
    parser.add_argument("--num", type=int, default=16, metavar="N", help="number of records, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed; another seed draws other records")
    parser.add_argument("--lines", metavar="N,N,…", help="line numbers of the records (default: drawn at random)")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.show import show_records

    pictures = show_records(args.data, args.out, args.num, args.seed, _lines(args.lines), args.image_root)
    print(f"wrote {len(pictures)} pictures and sheet.jpg to {args.out}")


def _lines(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"lines = {text!r}: must be line numbers with commas between, such as 1,5,9.") from None

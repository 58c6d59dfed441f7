# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert voc`."""

import argparse

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "voc", "convert Pascal VOC annotations (one XML file an image)", _run)
    parser.add_argument("--annotations", metavar="DIR", help="folder of the XML files", required=True)
    parser.add_argument("--images", metavar="DIR", help="folder of the images", required=True)
    parser.add_argument("--out", metavar="FILE.jsonl", help="file to write", required=True)
    parser.add_argument("--split-file", metavar="FILE", help="text file with one id a line (default: all XML files)")
    parser.add_argument(
        "--one-based",
        action="store_true",
        help="boxes are 1-based inclusive pixel indices, as in the original PASCAL VOC; sets written by LabelImg and "
        "similar tools have continuous edges from 0, which is what is assumed without this option",
    )
    parser.add_argument("--skip-difficult", action="store_true", help="leave out objects marked difficult")
    parser.add_argument("--rename", metavar="FILE", help="JSON or YAML file that maps class names to descriptions")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.voc import convert_voc

    report = convert_voc(
        args.annotations,
        args.images,
        args.out,
        split_file=args.split_file,
        one_based=args.one_based,
        skip_difficult=args.skip_difficult,
        rename=args.rename,
    )
    print_table(report.rows())
    print(f"wrote {args.out}")

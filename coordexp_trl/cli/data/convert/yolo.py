# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert yolo`."""

import argparse

from coordexp_trl.cli.data.convert.options import add_shared, print_report, shared
from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "yolo", "convert Ultralytics YOLO labels (one text file an image)", _run)
    parser.add_argument(
        "--names", metavar="FILE", help="data.yaml, or text file with one class name a line", required=True
    )
    parser.add_argument("--split", metavar="NAME", help="split of data.yaml, such as train; or give --images")
    parser.add_argument("--images", metavar="DIR|FILE", help="folder of the images, or text file that lists them")
    parser.add_argument(
        "--labels",
        metavar="DIR",
        help="folder of the label files (default: the last folder 'images' of an image's path replaced by 'labels')",
    )
    parser.add_argument(
        "--geometry",
        choices=("box", "polygon"),
        default="box",
        help="what to write of a segmentation line: its box; its polygon, but its box if the image cuts it to pieces",
    )
    parser.add_argument(
        "--skip-unlabelled",
        action="store_true",
        help="leave out images without a label file instead of writing an empty record",
    )
    add_shared(parser)


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.yolo import convert_yolo

    report = convert_yolo(
        args.names,
        split=args.split,
        images=args.images,
        labels=args.labels,
        geometry=args.geometry,
        skip_unlabelled=args.skip_unlabelled,
        **shared(args),
    )
    print_report(report, args.out)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data shapes`: a synthetic dataset."""

import argparse

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "shapes", "draw a synthetic dataset of coloured shapes", _run)
    parser.add_argument("--out", metavar="DIR", help="folder to write: shapes.jsonl and images/", required=True)
    parser.add_argument("--num-images", type=int, metavar="N", help="number of pictures", required=True)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed; another seed gives other pictures")
    parser.add_argument("--image-size", type=int, default=128, metavar="N", help="width and height in pixels")
    parser.add_argument("--min-objects", type=int, default=1, metavar="N", help="least number of objects a picture")
    parser.add_argument("--max-objects", type=int, default=4, metavar="N", help="largest number of objects a picture")
    parser.add_argument(
        "--max-overlap",
        type=float,
        default=0.1,
        metavar="X",
        help="largest overlap of two boxes, as a part of the smaller one",
    )


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.shapes import create_shapes

    path = create_shapes(
        args.out,
        args.num_images,
        seed=args.seed,
        image_size=args.image_size,
        min_objects=args.min_objects,
        max_objects=args.max_objects,
        max_overlap=args.max_overlap,
    )
    print(f"wrote {path}")

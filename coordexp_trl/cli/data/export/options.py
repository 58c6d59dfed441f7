# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Options that several exporters share."""

import argparse
from typing import Any

from coordexp_trl.cli.parser import CommandParser


def add_shared(parser: CommandParser, image_paths: str) -> None:
    """Adds the options of every exporter that writes one line an image; `image_paths` is a default."""
    parser.add_argument("data", metavar="FILE.jsonl", help="detection records")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file to write", required=True)
    parser.add_argument(
        "--image-root",
        metavar="DIR",
        help="folder at which relative image paths of the records start (default: the folder of the records)",
    )
    parser.add_argument(
        "--image-paths",
        choices=("absolute", "relative"),
        default=image_paths,
        help="how to write image paths, relative ones from the image root",
    )


def add_prompt(parser: CommandParser, default: str = "to locate every object and answer in JSON") -> None:
    """Adds the option of exporters to conversations; `default` tells what they ask without it."""
    parser.add_argument("--prompt", metavar="TEXT", help=f"what is asked of every image (default: {default})")


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the exporter that these options give."""
    given = {name: getattr(args, name) for name in ("data", "out", "image_root", "image_paths")}
    return given | ({"prompt": args.prompt} if getattr(args, "prompt", None) is not None else {})

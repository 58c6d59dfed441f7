# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data convert visual-genome`."""

import argparse

from coordexp_trl.cli.data.convert.options import add_shared, print_report, shared
from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "visual-genome", "convert objects or regions of Visual Genome", _run)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--objects", metavar="FILE.json", help="objects.json: objects by their first name")
    kind.add_argument("--regions", metavar="FILE.json", help="region_descriptions.json: regions by their phrase")
    parser.add_argument("--image-data", metavar="FILE.json", help="image_data.json", required=True)
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, or of VG_100K and VG_100K_2", required=True
    )
    add_shared(parser)


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.visual_genome import convert_visual_genome

    report = convert_visual_genome(
        args.image_data, args.images, objects=args.objects, regions=args.regions, **shared(args)
    )
    print_report(report, args.out)

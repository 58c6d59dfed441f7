# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp report`: one HTML page about a run."""

import argparse

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "report", "write one HTML page of metrics, curves and pictures of a run", _run)
    parser.add_argument(
        "--run", required=True, metavar="DIR", dest="folder", help="folder of an evaluation or a training run"
    )
    parser.add_argument("--out", required=True, metavar="FILE.html", help="page to write; it needs no other file")
    parser.add_argument("--max-images", type=int, default=24, metavar="N", help="images to show at most")
    parser.add_argument(
        "--sort", choices=("worst", "best", "name", "random"), default="worst", help="which images come first"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of --sort random")
    parser.add_argument(
        "--image-root", metavar="DIR", help="where relative image paths start (default: where they were evaluated)"
    )
    parser.add_argument("--num-workers", type=int, metavar="N", help="threads that draw (default: one for each CPU)")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.evaluation.run_pages import write_run_report

    written = write_run_report(
        args.folder, args.out, args.max_images, args.sort, args.seed, args.image_root, args.num_workers
    )
    if written.num_unreadable:
        print(f"{written.num_unreadable} of {written.num_images} image files could not be read and are drawn on grey")
    print(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.1f} MB, {written.num_images} images)")

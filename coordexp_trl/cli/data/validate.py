# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data validate`: everything that is wrong with files of records."""

import argparse
import json

from coordexp_trl.cli.data.checkpoint import load_protocols
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "validate", "find every problem of files of records, by line", _run)
    parser.epilog = "exit status: 0 if all files are right, 1 if one has errors, 2 if the command itself is wrong"
    parser.add_argument("data", metavar="FILE.jsonl", nargs="+", help="files to check")
    parser.add_argument("--no-images", action="store_true", help="do not decode the images")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")
    parser.add_argument("--num-bins", type=int, default=1000, metavar="N", help="bins of coordinate tokens")
    parser.add_argument("--model", metavar="DIR", help="checkpoint, whose tokenizer must write the descriptions")
    parser.add_argument("--max-problems", type=int, default=50, metavar="N", help="problems listed a file; 0 for all")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--num-workers", type=int, metavar="N", help="threads that decode images (default: the CPUs)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all problems")


def _run(args: argparse.Namespace) -> int:
    from coordexp_trl.coordinates import CoordinateGrid
    from coordexp_trl.datasets.validation import validate_file

    protocols = load_protocols(args.model)
    reports = [
        validate_file(
            path, args.image_root, not args.no_images, protocols, CoordinateGrid(args.num_bins), args.num_workers
        )
        for path in args.data
    ]
    if args.json:
        print(json.dumps([_as_json(report) for report in reports], indent=2, ensure_ascii=False))
    else:
        for report in reports:
            _print(report, args.max_problems)
    return int(any(report.errors or (args.strict and report.warnings) for report in reports))


def _print(report, limit: int) -> None:
    listed = report.problems[: limit or None]
    for problem in listed:
        print(f"{'warning' if problem.is_warning else 'error'}: {problem.message}")
    if len(report.problems) > len(listed):
        print(f"and {len(report.problems) - len(listed)} more problems (--max-problems 0 lists all)")
    rows = [("usable records", report.records), ("their objects", report.objects)]
    rows += [(f"error: {kind}", count) for kind, count in report.errors.most_common()]
    rows += [(f"warning: {kind}", count) for kind, count in report.warnings.most_common()]
    print(f"{report.path}: {'clean' if not report.problems else f'{len(report.problems)} problems'}")
    print_table(rows)


def _as_json(report) -> dict:
    names = ("path", "records", "objects", "errors", "warnings")
    return {name: getattr(report, name) for name in names} | {"problems": [vars(item) for item in report.problems]}

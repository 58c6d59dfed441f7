# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data stats`: what a file of records holds."""

import argparse

from coordexp_trl.cli.data.checkpoint import load_protocols
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table

_SUMMARIES = {
    "objects_per_image": "objects an image",
    "vertices": "vertices a polygon",
    "relative_side": "side of a box / side of its image",
}


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "stats", "count objects, classes, sizes, overlaps and tokens of a file", _run)
    parser.add_argument("data", metavar="FILE.jsonl", help="records to read")
    parser.add_argument("--model", metavar="DIR", help="checkpoint, whose tokenizer gives token lengths")
    parser.add_argument(
        "--protocol", choices=("tags", "json", "both"), default="both", help="protocols whose lengths are given"
    )
    parser.add_argument("--geometry", choices=("box", "native"), default="box", help="how polygons are written")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="number of classes to list")
    parser.add_argument("--json", action="store_true", help="print JSON, with all classes")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.datasets.statistics import dataset_statistics

    names = ("tags", "json") if args.protocol == "both" else (args.protocol,)
    protocols = load_protocols(args.model, names)
    found = dataset_statistics(args.data, protocols, args.geometry)
    if args.json:
        import json

        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    counts = [(name.replace("_", " "), found[name]) for name in ("images", "empty_images", "objects", "polygons")]
    sizes = [(f"{name} boxes", count) for name, count in found["sizes"].items()]
    overlap = ("largest IoU within a class", found["largest_same_class_iou"])
    print_table([*counts, ("classes", len(found["classes"])), *sizes, overlap])
    rows = [(title, *found[name].values()) for name, title in _SUMMARIES.items() if found[name]]
    rows += [(f"tokens, {name}", *list(values.values())[:5]) for name, values in found["tokens"].items()]
    print_table(rows, headers=["", "mean", "median", "p95", "p99", "max"])
    share = max(found["objects"], 1)
    classes = list(found["classes"].items())
    print_table(
        [(name, count, f"{count / share:.1%}") for name, count in classes[: args.top]],
        headers=["class", "objects", "share"],
    )
    if len(classes) > args.top:
        print(f"and {len(classes) - args.top} more classes (--top, --json)")
    for name, values in found["tokens"].items():
        print(
            f"{name}: max_completion_length {values['fits_all']} holds every record, {values['fits_99_percent']} all "
            f"but {values['records_beyond']}"
        )
    if not protocols:
        print("token lengths and a max_completion_length: give --model, a checkpoint with coordinate tokens")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Records validated in a second, images aside: `coordexp data validate --no-images` on one core.

    python benchmarks/validate.py [--records 50000] [--objects 10]
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from machine import cpu_model

from coordexp_trl.coordinates import COORD_TOKEN
from coordexp_trl.datasets.validation import validate_file
from coordexp_trl.tables import print_table


def write(path: Path, records: int, objects: int, form: str) -> None:
    """Writes records of random boxes, in pixels or as coordinate tokens."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for index in range(records):
            items = []
            for _ in range(objects):
                x1, y1 = rng.randrange(400), rng.randrange(300)
                box = [x1, y1, x1 + rng.randrange(1, 200), y1 + rng.randrange(1, 150)]
                items.append({"desc": rng.choice(["person", "traffic light", "dog"]), "bbox_2d": box})
                if form == "tokens":
                    items[-1]["bbox_2d"] = [COORD_TOKEN.format(k) for k in box]
            file.write(json.dumps({"images": [f"{index}.jpg"], "width": 640, "height": 480, "objects": items}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(cpu_model())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form in ("pixels", "tokens"):
            path = Path(folder, f"{form}.jsonl")
            write(path, args.records, args.objects, form)
            rates = []
            for _ in range(args.runs):
                started = time.perf_counter()
                report = validate_file(path, check_images=False, show_progress=False)
                rates.append(args.records / (time.perf_counter() - started))
                assert report.records == args.records and not report.errors
            rows.append((form, f"{min(rates):,.0f}", f"{sorted(rates)[len(rates) // 2]:,.0f}", f"{max(rates):,.0f}"))
    print_table(rows, headers=[f"{args.objects} objects a record", "slowest", "median", "fastest (records/s)"])


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Seconds and size of `coordexp report`, the whole command, for photographs with 20 objects and 20 predictions each.

    python benchmarks/report.py --images FOLDER [--num 24 500] [--workers 1 2]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import cpu_model
from PIL import Image

from coordexp_trl.evaluation.image_results import GT_STATUSES, PREDICTION_STATUSES
from coordexp_trl.tables import print_table

OBJECTS = 20
_MAIN = "import sys; from coordexp_trl.cli import main; sys.exit(main())"


def write_evaluation(folder: Path, photographs: list[Path], num: int) -> None:
    """Writes an evaluation of random boxes; photographs are repeated if there are fewer than `num`."""
    rng = random.Random(0)

    def objects(size: tuple[int, int], statuses: tuple[str, ...], scored: bool) -> list[dict]:
        items = []
        for _ in range(OBJECTS):
            x, y = rng.random() * size[0] * 0.8, rng.random() * size[1] * 0.8
            box = [x, y, x + (0.02 + rng.random() * 0.18) * size[0], y + (0.02 + rng.random() * 0.18) * size[1]]
            items.append({"desc": rng.choice(["person", "traffic light", "dog"]), "bbox_2d": box})
            items[-1] |= {"status": rng.choice(statuses)} | ({"score": rng.random()} if scored else {})
        return items

    with open(folder / "per_image.jsonl", "w", encoding="utf-8") as file:
        for index in range(num):
            path = photographs[index % len(photographs)]
            with Image.open(path) as image:
                size = image.size
            truths, found = objects(size, GT_STATUSES, False), objects(size, PREDICTION_STATUSES, True)
            tp = sum(item["status"] == "tp" for item in found)
            fn = sum(item["status"] == "missed" for item in truths)
            line = {"image": f"{index}/{path.name}", "image_path": str(path), "width": size[0], "height": size[1]}
            line |= {"tp": tp, "fp": OBJECTS - tp, "fn": fn, "ground_truth": truths, "predictions": found}
            file.write(json.dumps(line) + "\n")
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"f1_50": 0.5}}), encoding="utf-8")


def cpu_seconds() -> float:
    """CPU time of the commands that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG photographs, with its subfolders")
    parser.add_argument("--num", type=int, nargs="+", default=[24, 500])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    photographs = sorted(path.resolve() for path in args.images.rglob("*.jpg"))
    if not photographs:
        parser.error(f"--images {args.images}: holds no JPEG file")
    print(f"{cpu_model()}; {len(photographs)} photographs")
    rows = []
    for num in args.num:
        with tempfile.TemporaryDirectory() as folder:
            write_evaluation(Path(folder), photographs, num)
            for workers in args.workers:
                out = Path(folder, "report.html")
                command = [sys.executable, "-c", _MAIN, "report", "--run", folder, "--out", str(out)]
                command += ["--max-images", str(num), "--num-workers", str(workers)]
                started, used = time.perf_counter(), cpu_seconds()
                subprocess.run(command, check=True, capture_output=True)
                seconds, used = time.perf_counter() - started, cpu_seconds() - used
                rows.append((num, workers, f"{seconds:.1f}", f"{used:.1f}", f"{out.stat().st_size / 1e6:.1f}"))
    print_table(rows, headers=["images", "threads", "seconds", "CPU seconds", "MB"])


if __name__ == "__main__":
    main()

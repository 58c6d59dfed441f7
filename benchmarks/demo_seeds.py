# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The demonstration (`make demo`) with several seeds, and continued Stage-1 for the same seconds from the same detector
on the same pictures; both are evaluated on held-out pictures.

Stage-1 gets as many steps as fit into the seconds that Stage-2 took, by the speed of a short run before.

    python benchmarks/demo_seeds.py --out runs/demo_seeds
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from machine import cpu_model

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
COLUMNS = {
    "F1@.5": "f1",
    "F1@.75": "f1_75",
    "AP": "ap",
    "mean IoU": "mean_iou",
    "duplicates": "duplicate_rate",
    "misses": "objects_missed",
    "parse rate": "parse_rate",
}
TRIAL_STEPS = 40


def run_demo(out: Path, *options: object) -> tuple[dict[str, dict], float, int]:
    """Returns the evaluations before and after, the seconds of training and the number of its steps."""
    command = [sys.executable, RECIPES / "demo.py", "--out", out, *options]
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    result = json.loads((out / "run" / "result.json").read_text(encoding="utf-8"))
    history = json.loads((out / "run" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = next(entry for entry in reversed(history) if "train_runtime" in entry)
    return result, last["train_runtime"], last["step"]


def row(label: str, steps: object, seconds: object, metrics: list[dict]) -> str:
    """Means over runs, with the sample standard deviation where there are several."""
    cells = []
    for key in COLUMNS.values():
        values = [metric[f"eval_{key}"] for metric in metrics]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.3f}{spread}")
    return f"| {label} | {steps} | {seconds} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; must not exist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"--out {args.out} exists already.")

    trial = ("--stage", 1, "--max_steps", TRIAL_STEPS, "--num_overlays", 0, "--num-images", 1000)
    _, seconds, _ = run_demo(args.out / "trial", *trial)
    rate = TRIAL_STEPS / seconds
    lines, after = [], {1: [], 2: []}
    for seed in args.seeds:
        seconds = None
        for stage in (2, 1):
            options = () if seconds is None else ("--max_steps", round(seconds * rate))
            result, seconds, steps = run_demo(
                args.out / f"stage{stage}-seed{seed}", "--stage", stage, "--seed", seed, *options
            )
            after[stage].append(result["after"])
            lines.append(row(f"Stage-{stage}, seed {seed}", steps, round(seconds), [result["after"]]))
    print(
        f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}; training seconds, without evaluations.\n\n"
        f"| | steps | seconds | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 3)}"
    )
    print(row("before", "", "", [result["before"]]))
    print("\n".join(sorted(lines, reverse=True)))
    for stage in (2, 1):
        print(row(f"Stage-{stage}, mean of {len(args.seeds)}", "", "", after[stage]))


if __name__ == "__main__":
    main()

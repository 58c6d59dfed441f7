# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
How records of a large JSONL file are kept: all in memory, by the `datasets` library, or in the file itself.

Each arm gets ready in a fresh process (all but `datasets` validate every record), then reads records at random; the
`datasets` arms make a record of the row, as trainers need one. Memory is what the process holds in addition when it
is ready (unique set size); disk is what the arm writes beside the file.

    python benchmarks/record_file.py
"""

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import psutil
from machine import cpu_model

from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.records import DetectionRecord, parse_record, read_records


def write(path: Path, count: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    with open(path, "w") as file:
        for number in range(count):
            objects = []
            for _ in range(rng.randint(1, 20)):
                x, y = rng.uniform(0, 500), rng.uniform(0, 400)
                box = [round(value, 2) for value in (x, y, x + rng.uniform(5, 100), y + rng.uniform(5, 80))]
                objects.append({"desc": rng.choice(["cat", "black dog", "person on a bicycle"]), "bbox_2d": box})
            record = {"images": [f"images/{number:012}.jpg"], "width": 640, "height": 480, "objects": objects}
            file.write(json.dumps(record) + "\n")


def lines(path: Path, cache: Path) -> Callable[[int], DetectionRecord]:
    rows = datasets.load_dataset("text", data_files=str(path), split="train", cache_dir=str(cache))
    return lambda index: parse_record(rows[index]["text"].encode(), path.parent, f"{path}:{index + 1}")


def tables(path: Path, cache: Path) -> Callable[[int], DetectionRecord]:
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))
    return lambda index: parse_record(json.dumps(rows[index]).encode(), path.parent, f"{path}:{index + 1}")


ARMS = {
    "list in memory": lambda path, cache: read_records(path).__getitem__,
    "datasets, text": lines,
    "datasets, json": tables,
    "RecordFile": lambda path, cache: RecordFile(path, show_progress=False).__getitem__,
}


def measure(arm: str, path: Path, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one arm in this process."""
    datasets.disable_progress_bars()
    cache = path.parent / arm
    process = psutil.Process()
    gc.collect()
    before = process.memory_full_info().uss
    started = time.perf_counter()
    read = ARMS[arm](path, cache)
    ready = time.perf_counter() - started
    gc.collect()
    held = process.memory_full_info().uss - before
    order = random.Random(1).choices(range(args.records), k=args.reads)
    started = time.perf_counter()
    for index in order:
        read(index)
    each = (time.perf_counter() - started) / args.reads
    disk = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return {"ready": ready, "each": each, "held": held / args.records, "disk": disk / args.records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--reads", type=int, default=5_000)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measure(args.arm, args.file, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        write(path, args.records)
        print(
            f"{args.records} records, {path.stat().st_size / 1e6:.1f} MB, {args.reads} read at random. "
            f"{cpu_model()}, datasets {datasets.__version__}.\n\n"
            "| records in | ready after, s | µs a read | bytes a record in memory | on disk |\n"
            "| --- | --- | --- | --- | --- |"
        )
        for arm in ARMS:
            command = [sys.executable, __file__, f"--arm={arm}", f"--file={path}"]
            command += [f"--records={args.records}", f"--reads={args.reads}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = json.loads(output.splitlines()[-1])
            print(
                f"| {arm} | {result['ready']:.1f} | {result['each'] * 1e6:.0f} | {result['held']:.0f} | "
                f"{result['disk']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

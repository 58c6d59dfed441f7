# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Time to parse rollouts and to match them to the ground truth, and how parsing grows with the length.

The rollouts are well-formed; the ground truth is the same objects, shuffled, with jittered boxes. Every figure is the
minimum of several runs, wall-clock for the goal and CPU time for the growth. Goal: parsing and matching 64 rollouts of
60 objects take less than 0.1 s together on 2 cores.

    python benchmarks/parse_match.py
    python benchmarks/parse_match.py --rollouts 8 --objects 20 --repeats 3
"""

import argparse
import os
import platform
import random
import sys
import time
from collections.abc import Callable

import torch
import transformers
from machine import cpu_model

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.matching import match_batch
from coordexp_trl.protocols import PROTOCOLS, ParsedCompletion, get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import build_tiny_tokenizer

DESCS = ["person", "black cat", "red circle", "traffic light", "dining table", "黑猫"]
LENGTHS = (1_000, 10_000, 100_000)
GRID = CoordinateGrid()


def random_objects(rng: random.Random, count: int) -> list[DetectionObject]:
    objects = []
    for _ in range(count):
        x, y, width, height = rng.randrange(900), rng.randrange(900), rng.randrange(20, 99), rng.randrange(20, 99)
        objects.append(DetectionObject(desc=rng.choice(DESCS), bins=(x, y, x + width, y + height)))
    return objects


def seconds(function: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Least time of `repeats` calls, after an unmeasured one."""
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)


def ground_truth(
    rng: random.Random, rollouts: list[list[DetectionObject]]
) -> tuple[list[torch.Tensor], list[list[str]]]:
    boxes, descs = [], []
    for rollout in rollouts:
        items = rng.sample(rollout, len(rollout))
        jittered = GRID.bins_to_unit(torch.tensor([item.bins for item in items])) + 0.01 * torch.rand(len(items), 4)
        boxes.append(jittered.clamp(0, 1))
        descs.append([item.desc for item in items])
    return boxes, descs


def match(parsed: list[ParsedCompletion], gt_boxes: list[torch.Tensor], gt_descs: list[list[str]]) -> list:
    boxes = [GRID.bins_to_unit(torch.tensor([item.bins for item in one.objects]).reshape(-1, 4)) for one in parsed]
    return match_batch(boxes, gt_boxes, [[item.desc for item in one.objects] for one in parsed], gt_descs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--objects", type=int, default=60, help="objects per rollout")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()

    tokenizer = build_tiny_tokenizer()
    protocols = {name: get_protocol(name, tokenizer) for name in PROTOCOLS}
    rng = random.Random(0)
    torch.manual_seed(0)
    rollouts = [random_objects(rng, options.objects) for _ in range(options.rollouts)]
    gt = ground_truth(rng, rollouts)

    print(
        f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"minimum of {options.repeats} runs.\n"
    )
    print(f"{options.rollouts} rollouts × {options.objects} objects:\n")
    print("| protocol | tokens | parse, ms | match, ms | together, ms |\n|---|---:|---:|---:|---:|")
    slowest = 0.0
    for name, protocol in protocols.items():
        encoded = [protocol.encode(rollout) for rollout in rollouts]
        parsed = [protocol.parse(ids) for ids in encoded]
        assert [[item.bins for item in one.objects] for one in parsed] == [[item.bins for item in r] for r in rollouts]
        parsing = seconds(lambda: [protocol.parse(ids) for ids in encoded], options.repeats)  # noqa: B023
        matching = seconds(lambda: match(parsed, *gt), options.repeats)  # noqa: B023
        slowest = max(slowest, parsing + matching)
        print(
            f"| {name} | {sum(map(len, encoded))} | {1e3 * parsing:.1f} | {1e3 * matching:.1f} "
            f"| {1e3 * (parsing + matching):.1f} |"
        )

    print("\nOne completion, CPU time:\n")
    print("| protocol | tokens | parse, ms | ns per token | ratio |\n|---|---:|---:|---:|---:|")
    for name, protocol in protocols.items():
        shortest = None
        for length in LENGTHS:
            ids = protocol.encode(random_objects(rng, length // 20))[:length]
            parsing = seconds(lambda: protocol.parse(ids), options.repeats, time.thread_time)  # noqa: B023
            per_token = 1e9 * parsing / len(ids)
            shortest = shortest or per_token
            print(f"| {name} | {len(ids)} | {1e3 * parsing:.2f} | {per_token:.0f} | {per_token / shortest:.2f} |")

    if slowest > 0.1:
        sys.exit(f"\nGoal missed: {slowest:.3f} s > 0.1 s.")
    print(f"\nGoal met: {slowest:.3f} s < 0.1 s.")


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Time and memory of `losses.head.supervised_logits` against the dense head, forward and backward.

The dense head projects every position of the batch on the whole vocabulary, as `model(**batch).logits` does; both arms
then compute the same loss at the same supervised positions: text cross-entropy, and at coordinate slots hard and soft
cross-entropy, W1, the gate and the L1 error of the expectation.

Every measurement runs in a fresh process, the arms in turn. Extra memory is the peak resident set size of that process
(`ru_maxrss`) minus its value once the weight, the hidden states and the targets exist and the threads and libraries
are warm, minus the bytes of the gradients that both arms must hold in the end (hidden, and the weight if trained).
Time is that of one forward and backward, after an unmeasured run of the same arm on a hundredth of the vocabulary.

    python benchmarks/head.py                # goal: memory <= 10 %, time <= 50 % of the dense head
    python benchmarks/head.py --positions 256 --vocab_size 20000 --repeats 1
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import cpu_model
from torch import nn

from coordexp_trl.losses.coordinate import (
    expectation,
    gaussian_targets,
    hard_cross_entropy,
    soft_cross_entropy,
    wasserstein1,
)
from coordexp_trl.losses.head import HeadOutput, supervised_logits

NUM_BINS = 1000
SIGMA = 3.0
ARMS = ("dense", "chunked")


def make_problem(args: argparse.Namespace, vocab_size: int) -> dict:
    """Random hidden states, head, supervised rows and targets; the last tokens of the vocabulary are coordinates."""
    torch.manual_seed(0)
    head = nn.Linear(args.hidden_size, vocab_size, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        head.weight.normal_(std=0.02)
    head.weight.requires_grad_(args.head == "trained")
    num_text = num_slots = args.positions // 8
    rows = torch.randperm(args.positions)[: num_text + num_slots]
    return {
        "hidden": torch.randn(args.positions, args.hidden_size, requires_grad=True),
        "head": head,
        "rows": rows,
        "text_targets": torch.randint(vocab_size - NUM_BINS, (num_text,)),
        "coord_ids": torch.arange(vocab_size - NUM_BINS, vocab_size),
        "bins": torch.randint(NUM_BINS, (num_slots,)),
    }


def dense_head(hidden: torch.Tensor, head: nn.Module, rows, text_targets, coord_ids) -> HeadOutput:
    logits = head(hidden)[rows].float()
    num_text = text_targets.numel()
    text_nll = nn.functional.cross_entropy(logits[:num_text], text_targets, reduction="none")
    coord_logits = logits[num_text:, coord_ids]
    return HeadOutput(text_nll, coord_logits, logits[num_text:].logsumexp(-1) - coord_logits.logsumexp(-1))


def step(arm: str, problem: dict) -> None:
    """One forward and backward of the whole loss."""
    hidden, head, rows, bins = (problem[key] for key in ("hidden", "head", "rows", "bins"))
    text_targets, coord_ids = problem["text_targets"], problem["coord_ids"]
    if arm == "dense":
        out = dense_head(hidden, head, rows, text_targets, coord_ids)
    else:
        out = supervised_logits(hidden[rows], head, text_targets, coord_ids)
    log_probs = out.coord_logits.log_softmax(-1)
    targets = gaussian_targets(bins, NUM_BINS, SIGMA)
    slot_loss = (
        hard_cross_entropy(log_probs, bins)
        + soft_cross_entropy(log_probs, targets)
        + wasserstein1(log_probs.exp(), targets)
        + out.coord_gate
        + (expectation(out.coord_logits) - bins / (NUM_BINS - 1)).abs()
    )
    (out.text_nll.mean() + slot_loss.mean()).backward()


def measure(args: argparse.Namespace) -> dict:
    """Seconds and extra bytes of one arm in this process."""
    step(args.arm, make_problem(args, max(args.vocab_size // 100, 2 * NUM_BINS)))
    problem = make_problem(args, args.vocab_size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    step(args.arm, problem)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradients = [problem["hidden"].grad, problem["head"].weight.grad]
    gradient_bytes = sum(grad.nbytes for grad in gradients if grad is not None)
    return {"seconds": seconds, "extra": peak - before - gradient_bytes}


def gradient_difference(args: argparse.Namespace) -> dict:
    """Largest difference of any gradient element between the arms, relative to the largest element."""
    gradients = {}
    for arm in ARMS:
        problem = make_problem(args, args.vocab_size)
        step(arm, problem)
        gradients[arm] = {"hidden": problem["hidden"].grad, "weight": problem["head"].weight.grad}
    differences = [
        ((ours - dense).abs().max() / dense.abs().max()).item()
        for dense, ours in zip(gradients["dense"].values(), gradients["chunked"].values(), strict=True)
        if dense is not None
    ]
    return {"difference": max(differences)}


def run_in_fresh_process(argv: list[str]) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), *argv]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab_size", type=int, default=152_670)
    parser.add_argument("--hidden_size", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=2048, help="a quarter is supervised: half text, half slots")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each arm; the medians are reported")
    parser.add_argument("--head", choices=("trained", "frozen"), help=argparse.SUPPRESS)
    parser.add_argument("--arm", choices=(*ARMS, "difference"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(gradient_difference(args) if args.arm == "difference" else measure(args)))
        return

    rows = []
    sizes = [f"--{name}={getattr(args, name)}" for name in ("vocab_size", "hidden_size", "positions")]
    for head in ("trained", "frozen"):
        results = {arm: [] for arm in ARMS}
        for _ in range(args.repeats):
            for arm in ARMS:
                results[arm].append(run_in_fresh_process([*sizes, f"--head={head}", f"--arm={arm}"]))
        median = {
            arm: {key: statistics.median(result[key] for result in results[arm]) for key in ("seconds", "extra")}
            for arm in ARMS
        }
        dense, ours = median["dense"], median["chunked"]
        difference = run_in_fresh_process([*sizes, f"--head={head}", "--arm=difference"])["difference"]
        rows.append(
            f"| {head} | {dense['seconds']:.2f} | {ours['seconds']:.2f} | {ours['seconds'] / dense['seconds']:.1%} "
            f"| {dense['extra'] / 2**20:.0f} | {ours['extra'] / 2**20:.0f} | {ours['extra'] / dense['extra']:.1%} "
            f"| {difference:.1e} |"
        )

    print(
        f"Vocabulary {args.vocab_size}, hidden {args.hidden_size}, {args.positions} positions, a quarter supervised "
        f"(half text, half coordinate slots), float32, medians of {args.repeats}.\n"
        f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}.\n\n"
        "| head | dense s | chunked s | time | dense MiB | chunked MiB | extra memory | max gradient difference |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What trained rows cost at the size of a real vocabulary: a training step, a decoded token, and peak memory.

A Qwen3-VL with the widths and the vocabulary of the 2B model, random weights and few layers; LoRA on the queries alone
(no rows), with PEFT's own layers of trained rows, and with this project's. Every arm runs in a process of its own; the
arms alternate, and the best of the repeats counts. A step is forward and backward of one sequence through the model's
own head; memory is the process's peak above what it held before the first step.

    python benchmarks/coord_rows.py
    python benchmarks/coord_rows.py --layers 1 --tokens 64 --repeats 1
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import peft
import torch
import transformers
from machine import cpu_model
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp_trl.adapters.rows import use_row_lookup, with_token_rows

ARMS = {"no rows": "LoRA alone", "peft": "rows, PEFT", "ours": "rows, this project"}
VOCABULARY = 152_704
FIRST_BIN = 151_670


def build(arm: str, layers: int, tied: bool) -> peft.PeftModel:
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": layers,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "tie_word_embeddings": tied, "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 2048}
    config = Qwen3VLConfig(
        text_config=text, vision_config={**vision, "deepstack_visual_indexes": []}, tie_word_embeddings=tied
    )
    model = Qwen3VLForConditionalGeneration(config).float()
    lora = peft.LoraConfig(r=16, target_modules=r".*language_model.*q_proj")
    if arm != "no rows":
        lora = with_token_rows(lora, model, range(FIRST_BIN, FIRST_BIN + 1000))
    model = peft.get_peft_model(model, lora)
    if arm == "ours":
        use_row_lookup(model)
    return model


def measure(arm: str, options: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = build(arm, options.layers, not options.untied)
    ids = torch.randint(100_000, (1, options.tokens))
    ids[0, ::2] = torch.randint(FIRST_BIN, FIRST_BIN + 1000, ids[0, ::2].shape)
    before = memory("VmRSS")

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    def decode() -> None:
        model.generate(input_ids=ids[:, :8], max_new_tokens=options.decoded, min_new_tokens=options.decoded)

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    result = {"step": seconds(step, options.repeats)}
    result["memory"] = memory("VmHWM") - before
    with torch.no_grad():
        result["decode"] = seconds(decode, options.repeats) / options.decoded
    return result


def memory(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def seconds(function, repeats: int) -> float:
    function()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--decoded", type=int, default=8, help="tokens generated")
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options.arm, options)))
        return
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds):
        for arm, found in results.items():
            run = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--arm", arm], stdout=-1, check=True)
            found.append(json.loads(run.stdout.splitlines()[-1]))
    print(
        f"{cpu_model()}, {options.threads} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, peft {peft.__version__}; {VOCABULARY} tokens × 2048, "
        f"{'untied' if options.untied else 'tied'}, {options.layers} layers, {options.tokens} tokens, float32.\n"
    )
    print(
        "| | step, s | ratio | decoded token, s | ratio | peak memory of a step, MiB |\n|---|---:|---:|---:|---:|---:|"
    )
    best = {arm: {key: min(one[key] for one in found) for key in found[0]} for arm, found in results.items()}
    base = best["no rows"]
    for arm, row in best.items():
        print(
            f"| {ARMS[arm]} | {row['step']:.2f} | {row['step'] / base['step']:.2f} | {row['decode']:.3f} | "
            f"{row['decode'] / base['decode']:.2f} | {row['memory']:.0f} |"
        )


if __name__ == "__main__":
    main()

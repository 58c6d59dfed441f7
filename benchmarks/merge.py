# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What `coordexp merge` costs beside a plain copy of the checkpoint: seconds, and peak memory against the largest shard.

A bfloat16 Qwen3-VL with random weights, in shards; LoRA of rank 16 on all linear layers and the rows of 1000 tokens,
which change every shard. Copies and merge alternate, each in a process of its own, and the best of the repeats counts.
A merge waits until its files are on the disk, so it is set against a copy that does; what a copy takes that leaves it
to the kernel is told too. Memory is the process's peak while it merges, above what it held before. The comparison of
logits is left out.

    python benchmarks/merge.py --folder DIR
    python benchmarks/merge.py --folder DIR --layers 4 --repeats 1
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import cpu_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from coordexp_trl.adapters.merge import merge_adapter
from coordexp_trl.adapters.rows import with_token_rows
from coordexp_trl.tiny import build_tiny_config, build_tiny_processor, build_tiny_tokenizer

COPIES = ("copy, in memory", "copy, on disk")
_GIB = 1 << 30


def write_models(folder: Path, layers: int, shard: str, dora: bool) -> None:
    """Writes the base and its adapter."""
    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(tokenizer, hidden_size=2048, num_layers=layers, vision_depth=2)
    config.text_config.vocab_size = 50_000
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForImageTextToText.from_config(config)
    torch.set_default_dtype(default)
    base = folder / "base"
    model.save_pretrained(base, max_shard_size=shard)
    build_tiny_processor(tokenizer).save_pretrained(base)
    ids = [tokenizer.convert_tokens_to_ids(f"<|coord_{k}|>") for k in range(1000)]
    lora = with_token_rows(LoraConfig(r=16, target_modules="all-linear", use_dora=dora), model, ids)
    model = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder / "adapter")


def run(arm: str, folder: Path, threads: int) -> dict[str, float]:
    """Copies or merges once."""
    torch.set_num_threads(threads)
    out = folder / "out"
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    started = time.perf_counter()
    if arm in COPIES:
        shutil.copytree(folder / "base", out)
        for file in out.iterdir() if arm == COPIES[1] else ():
            with file.open("rb") as content:
                os.fsync(content.fileno())
    else:
        report = merge_adapter(folder / "adapter", out, verify=False)
        assert not report.linked, "every shard is to be written"
    return {"seconds": time.perf_counter() - started, "memory": memory("VmHWM") - before}


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def warm_up(folder: Path) -> None:
    """Loads what the first merge of a process loads, and puts the base in the page cache."""
    from coordexp_trl.tiny import create_tiny_checkpoint

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        base = create_tiny_checkpoint(Path(scratch) / "base", hidden_size=64, num_layers=1, vision_depth=1)
        model = AutoModelForImageTextToText.from_pretrained(base)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(Path(scratch) / "adapter")
        merge_adapter(Path(scratch) / "adapter", Path(scratch) / "out", verify=False)
    for file in (folder / "base").iterdir():
        with file.open("rb") as content:
            while content.read(1 << 24):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="where a temporary folder is made")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--shard", default="400MB", help="size of a shard")
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        warm_up(options.folder)
        print(json.dumps(run(options.arm, options.folder, options.threads)))
        return
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in (*COPIES, "merge")}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        write_models(folder, options.layers, options.shard, options.dora)
        sizes = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
        for _ in range(options.repeats):
            for arm, found in results.items():
                command = [sys.executable, __file__, "--folder", str(folder), "--threads", str(options.threads)]
                done = subprocess.run([*command, "--arm", arm], stdout=subprocess.PIPE, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                shutil.rmtree(folder / "out")
                os.sync()  # what is still to be written would burden the next
    print(
        f"{cpu_model()}, {options.threads} threads, torch {torch.__version__}; {sum(sizes) / _GIB:.2f} GiB in "
        f"{len(sizes)} shards, the largest {max(sizes) / _GIB:.2f} GiB; {'DoRA' if options.dora else 'LoRA'} and "
        f"rows, best of {options.repeats}.\n"
    )
    print("| | seconds | ratio | peak memory, MiB | of the largest shard |\n|---|---:|---:|---:|---:|")
    best = {arm: {key: min(one[key] for one in found) for key in found[0]} for arm, found in results.items()}
    for arm, row in best.items():
        ratio = row["seconds"] / best[COPIES[1]]["seconds"]
        print(
            f"| {arm} | {row['seconds']:.2f} | {ratio:.2f} | {row['memory'] / (1 << 20):.0f} | "
            f"{row['memory'] / max(sizes):.2f} |"
        )
    print(
        "\nSeconds, in order: " + "; ".join(f"{a} {[round(o['seconds'], 2) for o in f]}" for a, f in results.items())
    )


if __name__ == "__main__":
    main()

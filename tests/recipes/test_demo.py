# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The shipped detector, and the demonstration that starts from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from coordexp_trl.tiny import detector_path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ROWS = ("F1@.5", "F1@.75", "AP", "mean IoU of matches", "duplicate rate", "misses per image", "parse rate")


def test_the_detector_is_small_and_tells_how_it_was_made():
    folder = detector_path()
    weights = load_file(folder / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) <= 3_000_000
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.bfloat16"}
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    for phase in ("_easy", "", "_long", "_random"):
        recipe = f"stage1_tiny_detector{phase}"
        assert (folder / f"{recipe}.yaml").read_text() == (RECIPES / f"{recipe}.yaml").read_text()
        log = [json.loads(line) for line in (folder / f"{recipe}.log.jsonl").read_text().splitlines()]
        assert any("train_runtime" in entry for entry in log)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_demonstration_runs(stage, tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, str(RECIPES / "demo.py"), "--out", str(out), "--stage", str(stage), "--max_steps", "2"]
    command += [
        "--num-images",
        "32",
        "--num-held-out",
        "16",
        "--per_device_train_batch_size",
        "4",
        "--num_overlays",
        "2",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = json.loads((out / "run" / "result.json").read_text())
    # 16 pictures say little, but a detector that finds nothing, or two steps that break it, would show
    assert result["before"]["eval_parse_rate"] > 0.8 and result["after"]["eval_parse_rate"] > 0.8
    assert result["before"]["eval_f1"] > 0.6 and result["after"]["eval_f1"] > 0.6
    for label in ROWS:
        assert label in finished.stdout
    assert (out / "run" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

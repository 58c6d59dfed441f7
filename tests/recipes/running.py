# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""How the tests run a recipe: launched as a user does, or in this process."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CONFIGS = {1: "stage1_demo_cpu.yaml", 2: "stage2_tiny_cpu.yaml"}


def options(work: Path, stage: int, **changes) -> list[str]:
    """Arguments of a short run on the pictures of `work`; `None` leaves an option out."""
    values = {
        "config": RECIPES / CONFIGS[stage],
        "model_name_or_path": work / "model",
        "train_file": work / "shapes" / "shapes.jsonl",
        "eval_file": work / "shapes" / "shapes.jsonl",
        "output_dir": work / f"run{stage}",
        "max_steps": 4,
        "warmup_steps": 0,
        "logging_steps": 1,
        "max_completion_length": 48,
        **changes,
    }
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def launch(stage: int, arguments: Sequence[str]) -> str:
    """Runs a recipe by `accelerate launch` and returns what it printed."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(RECIPES / f"stage{stage}.py"), *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def main_of(stage: int, arguments: Sequence[str], monkeypatch) -> Callable[[], None]:
    """The main function of a recipe, with its arguments set."""
    monkeypatch.setattr(sys, "argv", [f"stage{stage}.py", *arguments])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return runpy.run_path(str(RECIPES / f"stage{stage}.py"))["main"]


def steps_of(run: Path) -> list[dict]:
    """The training log of a run."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def check_what_a_run_leaves(run: Path, model: Path, stage: int, printed: str) -> None:
    """Metrics, pictures, a report and a model that has learnt."""
    result = json.loads((run / "result.json").read_text())
    assert set(result) == {"before", "after"}
    for name in ("f1", "f1_75", "ap", "ap50", "ap75", "ar", "precision", "recall", "parse_rate"):
        assert 0 <= result["after"][f"eval_{name}"] <= 1
    for name in ("curves.png", "overlays.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 100
    for row in ("F1@.5", "F1@.75", "AP", "misses per image", "parse rate"):
        assert row in printed
    assert str(run / "report.html") in printed

    report = (run / "report.html").read_text(encoding="utf-8")
    assert f"CoordExp Stage-{stage}: {run.name}" in report
    assert "4 optimizer steps on 6 pictures" in report
    for text in ("misses per image", "loss/coord_ce", f"CoordExpStage{stage}Config", "max_steps: 4"):
        assert text in report
    for number in range(6):
        for when in ("before", "after"):
            assert f"images/{number:06}.png, {when} training" in report
    assert report.count("<img") == 1 + 2 * 6

    before, after = load_file(model / "model.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []  # nothing is frozen in these recipes

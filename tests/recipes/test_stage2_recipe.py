# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The Stage-2 recipe as a user runs it: a pinned short run, and mistakes that must stop it before training begins."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.recipe import run_recipe
from coordexp_trl.tiny import create_tiny_checkpoint

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Logged by this very run; a change that should not change numbers must leave them alone.
PINNED_LOSSES = [21.8509, 20.6158, 19.98042, 19.56139]
PINNED_TERMS = {
    "loss/text": 6.30996,
    "loss/coord_ce": 6.23263,
    "loss/coord_soft_ce": 6.68395,
    "loss/coord_gate": 0.33485,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    create_tiny_checkpoint(folder / "model", seed=0, hidden_size=64, num_layers=2, vision_depth=2)
    create_shapes(folder / "shapes", 6, seed=0, image_size=64, max_objects=2)
    return folder


def options(work: Path, **changes) -> list[str]:
    values = {
        "config": RECIPES / "stage2_tiny_cpu.yaml",
        "model_name_or_path": work / "model",
        "train_file": work / "shapes" / "shapes.jsonl",
        "eval_file": work / "shapes" / "shapes.jsonl",
        "output_dir": work / "run",
        "max_steps": 4,
        "warmup_steps": 0,
        "logging_steps": 1,
        "max_completion_length": 48,
        **changes,
    }
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_short_run_is_pinned(work):
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(RECIPES / "stage2.py"), *options(work)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]

    run = work / "run"
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["loss"] for entry in steps] == pytest.approx(PINNED_LOSSES, rel=1e-3)
    assert {name: steps[-1][name] for name in PINNED_TERMS} == pytest.approx(PINNED_TERMS, rel=1e-2)
    assert steps[0]["rollout/objects_ground_truth"] == pytest.approx(11 / 6)
    # generated once for four optimizer steps
    assert [("time/generate" in entry) for entry in steps] == [True, False, False, False]

    result = json.loads((run / "result.json").read_text())
    assert set(result) == {"before", "after"} and 0 <= result["after"]["eval_f1"] <= 1
    for name in ("curves.png", "overlays.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 100
    assert "parse rate" in finished.stdout and "loss/bbox_l1" in finished.stdout

    before, after = load_file(work / "model" / "model.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []  # nothing is frozen in this recipe


MISTAKES = [
    # (changed options, what the message must name)
    ({"lerning_rate": 1}, ["--lerning_rate", "--learning_rate"]),
    ({"mode": "both"}, ["mode='both'", "two_sequence"]),
    ({"train_file": "missing.jsonl"}, ["missing.jsonl"]),
    ({"model_name_or_path": "/no/such/model"}, ["/no/such/model"]),
    ({"max_steps": "many"}, ["max_steps", "many"]),
    ({"max_length": 60}, ["max_length=60", "shapes.jsonl:"]),
    ({"freeze": "visual_tower"}, ["visual_tower", "vision_tower"]),
]


def run_in_process(arguments, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["stage2.py", *arguments])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    main = runpy.run_path(str(RECIPES / "stage2.py"))["main"]
    with pytest.raises(SystemExit) as stopped:
        run_recipe(main)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("changes", "named"), MISTAKES, ids=[next(iter(changes)) for changes, _ in MISTAKES])
def test_mistakes_stop_before_training(changes, named, work, monkeypatch, capsys, tmp_path):
    message = run_in_process(options(work, output_dir=tmp_path / "run", **changes), monkeypatch, capsys)
    line = message.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for part in named:
        assert part in line
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_unreadable_image_stops_before_training(work, monkeypatch, capsys, tmp_path):
    lines = (work / "shapes" / "shapes.jsonl").read_text().splitlines()
    (tmp_path / "images").mkdir()
    for number, line in enumerate(lines):
        name = json.loads(line)["images"][0]
        content = (work / "shapes" / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if number == 2 else content)
    (tmp_path / "cut.jsonl").write_text("\n".join(lines))
    message = run_in_process(
        options(work, train_file=tmp_path / "cut.jsonl", output_dir=tmp_path / "run"), monkeypatch, capsys
    )
    assert "cut.jsonl:3" in message


def test_checkpoint_without_coordinate_tokens(work, monkeypatch, capsys, tmp_path):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0, hidden_size=64, num_layers=1, vision_depth=2)
    arguments = options(work, model_name_or_path=plain, output_dir=tmp_path / "run")
    message = run_in_process(arguments, monkeypatch, capsys)
    assert "coordinate tokens are missing" in message and "coordexp expand-vocab" in message


def test_folder_of_another_run_is_refused(work, monkeypatch, capsys, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    message = run_in_process(options(work, output_dir=tmp_path), monkeypatch, capsys)
    assert str(tmp_path) in message and "--resume_from_checkpoint" in message

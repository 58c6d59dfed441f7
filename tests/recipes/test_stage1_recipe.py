# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The Stage-1 recipe as a user runs it: a pinned short run, its continuation, and a run without evaluation."""

import json

import pytest
import torch
from running import check_what_a_run_leaves, launch, main_of, options, steps_of
from safetensors.torch import load_file

# Logged by this very run; a change that should not change numbers must leave them alone.
PINNED_LOSSES = [21.7921, 21.1255, 20.3262, 20.1654]
PINNED_TERMS = {
    "loss/text": 6.44321,
    "loss/coord_ce": 6.5664,
    "loss/coord_soft_ce": 6.81515,
    "loss/coord_gate": 0.34064,
}
RUN = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    # The recipe's values are tuned for the demonstration
    "coord_w1_weight": 0.0,
    "object_order": "sorted",
}


def test_short_run_is_pinned(work):
    printed = launch(1, options(work, 1, **RUN))
    steps = steps_of(work / "run1")
    assert [entry["loss"] for entry in steps] == pytest.approx(PINNED_LOSSES, rel=1e-3)
    assert {name: steps[-1][name] for name in PINNED_TERMS} == pytest.approx(PINNED_TERMS, rel=1e-2)
    check_what_a_run_leaves(work / "run1", work / "model", 1, printed)


def test_a_run_can_be_continued(work, tmp_path, monkeypatch):
    saved = {**RUN, "object_order": "random", "eval_file": None}
    whole = options(work, 1, **saved, output_dir=tmp_path / "whole", max_steps=3, save_strategy="steps", save_steps=2)
    main_of(1, whole, monkeypatch)()
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "later")
    main_of(1, [*whole, "--resume_from_checkpoint", "true"], monkeypatch)()
    again = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_run_without_evaluation_or_log_leaves_a_report(work, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    main_of(1, options(work, 1, eval_file=None, max_steps=1, logging_steps=10, output_dir=run), monkeypatch)()
    assert json.loads((run / "result.json").read_text()) == {"before": None, "after": None}
    assert "1 optimizer steps on 6 pictures" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "curves.png").is_file() and not (run / "overlays.png").exists()
    assert str(run / "report.html") in capsys.readouterr().out

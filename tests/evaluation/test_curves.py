# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.curves."""

import math
import re

import pytest
from matplotlib.figure import Figure
from PIL import Image

from coordexp_trl.evaluation.curves import PANELS
from coordexp_trl.evaluation.pictures import plot_curves

HISTORY = [
    {
        "step": step,
        "epoch": step / 100,
        "loss": 2 / step,
        "loss/text": 1 / step,
        "learning_rate": 1e-4,
        "rollout/f1": 1 - 1 / step,
        "rollout/parse_rate": 0.9,
        "completions/mean_length": 80.0,
        "time/generate": 2.0,
    }
    for step in range(1, 201)
] + [{"step": 200, "eval_f1": 0.7, "eval_loss": 0.1, "eval_runtime": 3.0}, {"step": 200, "train_loss": 0.2}]


@pytest.fixture
def drawn(monkeypatch):
    """Collects the figures that are saved."""
    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k)))
    return figures


def lines(figure):
    """Labelled lines by panel."""
    return {
        axes.get_title(): {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}
        for axes in figure.axes
    }


# A key without `eval_`, and its panel.
KEYS = {
    "loss": "Loss",
    "loss/coord_ce": "Loss",
    "f1": "Detection",
    "f1@0.75": "Detection",
    "ap": "Detection",
    "ap_small": "Detection",
    "rollout/f1": "Detection",
    "rollout/precision": "Detection",
    "rollout/recall": "Detection",
    "rollout/mean_iou": "Detection",
    "rollout/parse_rate": "Rollout health",
    "rollout/duplicate_rate": "Rollout health",
    "rollout/truncation_rate": "Rollout health",
    "completions/mean_length": "Completion length",
    "time/generate": "Time",
    "time/forward_backward": "Time",
    "rollout/objects": "Rollout counts",
    "learning_rate": "Optimisation",
    "grad_norm": "Optimisation",
    "apples": None,
    "runtime": None,
    "epoch": None,
    "train_loss": None,
}


@pytest.mark.parametrize(("key", "title"), KEYS.items())
def test_panel_of_a_key(key, title):
    assert next((name for name, *_, pattern in PANELS if re.fullmatch(pattern, key)), None) == title


def test_curves_hold_the_logged_values(tmp_path, drawn):
    path = plot_curves(HISTORY, tmp_path / "new" / "curves.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 1000
    panels = lines(drawn[0])
    assert {title: set(found) for title, found in panels.items()} == {
        "Loss": {"loss", "loss/text", "eval_loss"},
        "Detection": {"rollout/f1", "eval_f1"},
        "Rollout health": {"rollout/parse_rate"},
        "Completion length": {"completions/mean_length"},
        "Time": {"time/generate"},
        "Optimisation": {"learning_rate"},
    }
    evaluation, training = panels["Detection"]["eval_f1"], panels["Detection"]["rollout/f1"]
    assert evaluation.get_xydata().tolist() == [[200, 0.7]]
    assert evaluation.get_color() == training.get_color()
    assert (evaluation.get_linestyle(), training.get_linestyle()) == ("--", "-")
    # 200 points are smoothed over the last 3, and drawn as they are in the background
    assert training.get_ydata()[-1] == pytest.approx(sum(1 - 1 / step for step in (198, 199, 200)) / 3)
    raw = [line for line in drawn[0].axes[1].get_lines() if line.get_label()[0] == "_"]
    assert raw[0].get_ydata()[-1] == 1 - 1 / 200


def test_axes_fit_their_metrics(tmp_path, drawn):
    plot_curves(HISTORY, tmp_path / "curves.png")
    axes = {item.get_title(): item for item in drawn[0].axes}
    assert axes["Loss"].get_yscale() == "log"  # 2 to 0.005
    assert axes["Rollout health"].get_yscale() == "linear"
    assert axes["Rollout health"].get_ylim() == (-0.03, 1.03)
    assert axes["Time"].get_ylim()[0] == 0


# Histories that must not fail, and the lines that are drawn.
ODD = [
    ([], {}),
    ([{"loss": 1.0}], {}),  # without a step
    ([{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}], {}),
    ([{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}], {"loss": 1}),
    ([{"step": 1, "loss": 0.0}, {"step": 2, "loss": -1.0}], {"loss": 2}),
    ([{"step": 1, "loss": "low", "loss/text": None, "time/x": 0.0}], {"time/x": 1}),
    ([{"step": 1, "loss/only_once": 3}], {"loss/only_once": 1}),
]


@pytest.mark.parametrize(("history", "expected"), ODD)
def test_odd_histories(tmp_path, drawn, history, expected):
    plot_curves(history, tmp_path / "curves.png")
    found = {key: len(line.get_xdata()) for panel in lines(drawn[0]).values() for key, line in panel.items()}
    assert found == expected


def test_same_history_gives_the_same_file(tmp_path):
    first, second = plot_curves(HISTORY[:20], tmp_path / "a.png"), plot_curves(HISTORY[:20], tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Training curves from the log history of a trainer."""

import io
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = list[tuple[float, float]]

# Title, label of the y axis, scale, and pattern of the keys without `eval_`; a key goes to the first that matches.
PANELS = (
    ("Loss", "", "log if wide", r"loss(/.+)?"),
    ("Detection", "", "unit", r"(rollout/)?(precision|recall|f1|mean_iou|ap|ar)([@_./\d].*)?"),
    ("Rollout health", "rate", "unit", r"(rollout/)?(?!learning)\w+_rate"),
    ("Completion length", "tokens", "from zero", r"completions/.*length.*"),
    ("Time", "seconds", "from zero", r"time/.+"),
    ("Rollout counts", "", "from zero", r"rollout/.+"),
    ("Optimisation", "", "log if wide", r"learning_rate|grad_norm"),
)
_WIDTH, _HEIGHT, _DPI = 5.2, 3.4, 110  # of a panel, in inches, and pixels an inch
_SMOOTHED_POINTS = 60  # longer series are smoothed to about this many independent points
_WIDE_RANGE = 50  # ratio of values from which a positive panel gets a logarithmic axis


def plot_curves(log_history: Sequence[Mapping[str, object]], path: str | os.PathLike) -> Path:
    """
    Draws the curves of a training run: losses, detection quality, rollout health, lengths, seconds and optimisation.

    Evaluation metrics (keys that begin with `eval_`) are dashed, in the colour of the training metric of that name.
    Panels without a metric are left out. The same history gives the same file.

    Args:
        log_history (`Sequence[Mapping[str, object]]`):
            `trainer.state.log_history`: one mapping a log call, with `step` and any metrics; values that are not
            finite numbers are skipped.
        path (`str` or `os.PathLike`):
            Image file to write, such as `curves.png`; missing folders are made.

    Returns:
        `Path`: the file.
    """
    from matplotlib.figure import Figure  # slow to import; without pyplot there is no global state and no display

    panels = _panels(_series(log_history))
    columns = min(max(len(panels), 1), 3)
    rows = math.ceil(max(len(panels), 1) / columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained", dpi=_DPI)
    if not panels:
        figure.text(0.5, 0.5, "no metrics were logged", ha="center", va="center")
    for index, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, index), *panel)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def draw_curves(log_history: Sequence[Mapping[str, object]]) -> list[Image.Image]:
    """Draws what [`plot_curves`] draws, but each panel as a picture of its own."""
    from matplotlib.figure import Figure

    pictures = []
    for panel in _panels(_series(log_history)):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", dpi=_DPI)
        _draw_panel(figure.add_subplot(), *panel)
        pictures.append(figure_picture(figure))
    return pictures


def figure_picture(figure: "Figure") -> Image.Image:
    """Returns a figure of matplotlib as an RGB picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _base(key: str) -> str:
    return key.removeprefix("eval_")


def _series(log_history: Sequence[Mapping[str, object]]) -> dict[str, Series]:
    """The `(step, value)` points of every key with a finite number, in the order of the history."""
    series = {}
    for entry in log_history:
        for key, value in entry.items():
            if "step" in entry and isinstance(value, numbers.Real) and math.isfinite(value):
                series.setdefault(key, []).append((float(entry["step"]), float(value)))
    return series


def _panels(series: dict[str, Series]) -> list[tuple[str, str, str, dict[str, Series]]]:
    """Title, label of the y axis, scale and series of each panel that has a metric."""
    groups = {title: {} for title, *_ in PANELS}
    for key in sorted(series, key=lambda key: (_base(key), key.startswith("eval_"))):
        title = next((title for title, *_, pattern in PANELS if re.fullmatch(pattern, _base(key))), None)
        if title is not None:
            groups[title][key] = series[key]
    return [(title, label, scale, groups[title]) for title, label, scale, _ in PANELS if groups[title]]


def _draw_panel(axes: "Axes", title: str, label: str, scale: str, series: dict[str, Series]) -> None:
    names = dict.fromkeys(_base(key).removeprefix("rollout/") for key in series)  # shared by training and evaluation
    colors = {name: f"C{index % 10}" for index, name in enumerate(names)}
    for key, points in series.items():
        steps, values = zip(*points, strict=True)
        color = colors[_base(key).removeprefix("rollout/")]
        style = "-" if key == _base(key) else "--"
        window = len(points) // _SMOOTHED_POINTS
        if window > 1:
            axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
            values = [fmean(values[max(i - window + 1, 0) : i + 1]) for i in range(len(values))]
        marker = "o" if len(points) <= _SMOOTHED_POINTS else ""
        axes.plot(steps, values, style, label=key, color=color, linewidth=1.6, marker=marker, markersize=3)
    everything = [value for points in series.values() for _, value in points]
    if scale == "log if wide" and 0 < min(everything) * _WIDE_RANGE < max(everything):
        axes.set_yscale("log")
    elif scale == "unit":
        axes.set_ylim(-0.03, max(1.03, max(everything)))
    elif scale == "from zero":
        axes.set_ylim(min(0, min(everything)), max(everything) * 1.1 or 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, framealpha=0.6)
    axes.set(title=title, xlabel="step", ylabel=label)

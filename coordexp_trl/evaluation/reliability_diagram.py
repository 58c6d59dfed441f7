# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reliability diagram: how often predictions of a score are right."""

from collections.abc import Mapping, Sequence

from PIL import Image

from coordexp_trl.evaluation.curves import figure_picture


def draw_reliability(bins: Sequence[Mapping[str, float | None]], ece: float | None = None) -> Image.Image:
    """
    Draws precision against score: bars on the diagonal belong to scores that mean what they say.

    Args:
        bins (`Sequence[Mapping[str, float | None]]`):
            `low` and `high` edge of the scores, `count` of predictions, their `precision` and `mean_score`, both
            `None` in an empty bin.
        ece (`float`, *optional*):
            Expected calibration error, for the title.

    Returns:
        `PIL.Image.Image`: an RGB picture. The same bins give the same picture.
    """
    from matplotlib.figure import Figure  # slow to import; without pyplot there is no global state and no display

    figure = Figure(figsize=(6.4, 5.2), layout="constrained", dpi=110)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [item for item in bins if item["count"] and item["precision"] is not None]
    edges, widths = [item["low"] for item in bins], [item["high"] - item["low"] for item in bins]
    upper.bar(
        [item["low"] for item in filled],
        [item["precision"] for item in filled],
        [item["high"] - item["low"] for item in filled],
        align="edge",
        color="tab:blue",
        alpha=0.6,
        edgecolor="white",
        label="precision",
    )
    points = [(item["mean_score"], item["precision"]) for item in filled if item.get("mean_score") is not None]
    if points:
        upper.plot(
            *zip(*points, strict=True), "o", color="tab:blue", markersize=5, label="at the mean score of the bin"
        )
    upper.plot((0, 1), (0, 1), "--", color="black", linewidth=1, label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="precision")
    upper.set_title("Reliability" + ("" if ece is None else f" (ECE {ece:.3f})"))
    upper.grid(alpha=0.3)
    lower.bar(edges, [item["count"] for item in bins], widths, align="edge", color="tab:gray", edgecolor="white")
    for item in filled:
        middle = (item["low"] + item["high"]) / 2
        lower.annotate(f"{item['count']:g}", (middle, item["count"]), ha="center", va="bottom", fontsize=7)
    lower.set(xlabel="score", ylabel="predictions")
    lower.margins(y=0.25)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    lower.grid(alpha=0.3)
    return figure_picture(figure)

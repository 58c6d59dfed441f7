# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tables of a training run: evaluations before and after it, and its losses."""

import re
from collections.abc import Mapping, Sequence

from coordexp_trl.evaluation.report import Table

# Evaluation metrics in the order of the table; the label of `f1` holds the configured threshold.
RESULT_ROWS = {
    "": "f1",
    "F1@.75": "f1_75",
    "AP": "ap",
    "mean IoU of matches": "mean_iou",
    "precision": "precision",
    "recall": "recall",
    "duplicate rate": "duplicate_rate",
    "misses per image": "objects_missed",
    "objects per image": "objects_predicted",
    "parse rate": "parse_rate",
}
_NOTE = (
    "Greedy rollouts. A prediction counts when description and box (IoU) match one ground-truth object; AP ranks "
    "predictions by the probability of their own tokens."
)


def training_tables(results: Sequence[Sequence[object]], losses: Sequence[Sequence[object]]) -> list[Table]:
    """Returns the tables of a report, from [`result_rows`] and [`loss_rows`]."""
    tables = [Table("Evaluation", ["", "before", "after"], results, _NOTE)] if results else []
    return [*tables, Table("Losses", ["", "first log", "last log"], losses)]


def loss_rows(history: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float]]:
    """Returns (term, first, last) of a log history."""
    logged = [entry for entry in history if "loss" in entry]
    names = [name for name in (logged[-1] if logged else ()) if name == "loss" or name.startswith("loss/")]
    return [(name, logged[0].get(name, float("nan")), logged[-1][name]) for name in names]


def result_rows(
    before: Mapping[str, float], after: Mapping[str, float], iou_threshold: float | None = None
) -> list[tuple[str, float | None, float | None]]:
    """
    Returns (label, before, after) of two evaluations; of several datasets the F1 of each comes last. A metric that
    was not measured is `None`.
    """
    name = "F1" if iou_threshold is None else "F1@" + f"{iou_threshold:g}".lstrip("0")
    rows = [(label or name, before.get(f"eval_{key}"), after.get(f"eval_{key}")) for label, key in RESULT_ROWS.items()]
    datasets = filter(None, (re.fullmatch("eval_(.+)_f1", key) for key in after))
    return rows + [(f"{name}, {found[1]}", before.get(found[0]), after.get(found[0])) for found in datasets]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The table at the end of a run; what is written beside it is tested with the recipes."""

import math

import pytest

from coordexp_trl.evaluation.training_tables import RESULT_ROWS, loss_rows, result_rows


def test_losses_of_the_first_and_the_last_log():
    history = [
        {"loss": 3.0, "loss/text": 2.0, "grad_norm": 1.0, "step": 1},
        {"eval_f1": 0.5, "step": 1},
        {"loss": 2.0, "loss/text": 1.5, "step": 2},
        {"loss": 1.0, "loss/text": 1.0, "loss/bbox_l1": 0.25, "step": 3},  # a term that came later
        {"train_loss": 2.0, "step": 3},
    ]
    (total, text, box) = loss_rows(history)
    assert (total, text) == (("loss", 3.0, 1.0), ("loss/text", 2.0, 1.0))
    assert box[::2] == ("loss/bbox_l1", 0.25) and math.isnan(box[1])


@pytest.mark.parametrize("history", [[], [{"train_loss": 2.0}, {"eval_f1": 0.5}]])
def test_a_run_that_logged_no_loss(history):
    assert loss_rows(history) == []


@pytest.mark.parametrize(
    ("threshold", "label"), [(0.5, "F1@.5"), (0.75, "F1@.75"), (0.05, "F1@.05"), (1.0, "F1@1"), (1, "F1@1")]
)
def test_results_before_and_after(threshold, label):
    before = {f"eval_{key}": number for number, key in enumerate(RESULT_ROWS.values())}
    after = {f"eval_{key}": 10 + number for number, key in enumerate(RESULT_ROWS.values())}
    rows = result_rows(before, after, threshold)
    assert rows[0] == (label, 0, 10)
    assert [row[1:] for row in rows] == [(number, 10 + number) for number in range(len(RESULT_ROWS))]

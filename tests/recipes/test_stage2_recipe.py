# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The Stage-2 recipe as a user runs it: a pinned short run."""

import pytest
from running import check_what_a_run_leaves, launch, options, steps_of

# Logged by this very run; a change that should not change numbers must leave them alone.
PINNED_LOSSES = [21.8509, 20.6158, 19.98042, 19.56139]
PINNED_TERMS = {
    "loss/text": 6.30996,
    "loss/coord_ce": 6.23263,
    "loss/coord_soft_ce": 6.68395,
    "loss/coord_gate": 0.33485,
}


def test_short_run_is_pinned(work):
    printed = launch(2, options(work, 2))
    steps = steps_of(work / "run2")
    assert [entry["loss"] for entry in steps] == pytest.approx(PINNED_LOSSES, rel=1e-3)
    assert {name: steps[-1][name] for name in PINNED_TERMS} == pytest.approx(PINNED_TERMS, rel=1e-2)
    assert steps[0]["rollout/objects_ground_truth"] == pytest.approx(11 / 6)
    # generated once for four optimizer steps
    assert [("time/generate" in entry) for entry in steps] == [True, False, False, False]
    check_what_a_run_leaves(work / "run2", work / "model", 2, printed)

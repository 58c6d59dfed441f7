# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Every figure that the trainers log is described in `trainers/metrics.py`, and what is described there is logged."""

import pytest
from toys import (
    ALL_WEIGHTS,
    COORD_WEIGHTS,
    PLAIN_SFT,
    ScriptedEngine,
    make_stage1_trainer,
    make_stage2_trainer,
    writer,
)

from coordexp_trl import CoordExpStage2Trainer
from coordexp_trl.generation.parity import Parity
from coordexp_trl.losses.terms import DIAGNOSTICS, TERMS
from coordexp_trl.protocols import DROP_REASONS
from coordexp_trl.trainers import metrics, vllm_rollouts
from coordexp_trl.trainers.rollout_stats import RolloutStats

ONE_EVALUATION = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "per_device_train_batch_size": 2}


def described(*groups: tuple[metrics.Section, ...]) -> set[str]:
    return {name for group in groups for section in group for key in section.metrics for name in key.split(", ")}


OURS = described(metrics.TRAINING, metrics.EVALUATION)
DROPPED = {f"{prefix}dropped/{reason}" for prefix in ("rollout/", "eval_") for reason in DROP_REASONS}


def run(make, checkpoint, records, folder, **options) -> set[str]:
    """Names of all that a short run with evaluation of two sets logs; what it writes is cut inside an object."""
    sets = {"easy": records[:1], "hard": records[1:3]}
    trainer = make(checkpoint, records, folder, trainer_options={"eval_dataset": sets}, **(ONE_EVALUATION | options))
    write = writer(trainer)
    ScriptedEngine(trainer, records, lambda record: write(record)[:-2])
    trainer.evaluate()
    trainer.train()
    return {name for entry in trainer.state.log_history for name in entry}


class SyncedEngine(ScriptedEngine):
    """In place of vLLM, which is started by the first rollout."""

    def sync(self, model) -> None:
        pass


@pytest.fixture
def vllm(monkeypatch, records):
    """Lets a trainer with `use_vllm` run where there is none."""
    monkeypatch.setattr(vllm_rollouts, "require_vllm", lambda: None)
    monkeypatch.setattr(vllm_rollouts, "compare", lambda *args: Parity(bins=1.0, agreement=1.0))

    def start(trainer, prompts):
        return SyncedEngine(trainer, records, writer(trainer))

    monkeypatch.setattr(CoordExpStage2Trainer, "_start_vllm", start)


def plain_names(logged: set[str]) -> set[str]:
    """Without the figures of each evaluation set, which have the names of those of all."""
    for part in ("easy", "hard"):
        own = {name.replace(f"eval_{part}_", "eval_") for name in logged if name.startswith(f"eval_{part}_")}
        assert own and own <= logged
    return {name for name in logged if not name.startswith(("eval_easy_", "eval_hard_"))}


def test_what_is_logged_is_described_and_what_is_described_is_logged(checkpoint, records, tmp_path, vllm):
    all_terms = dict.fromkeys(ALL_WEIGHTS, 1.0)
    coordinate_terms = dict.fromkeys(COORD_WEIGHTS, 1.0)
    stage1 = plain_names(run(make_stage1_trainer, checkpoint, records, tmp_path / "1", **coordinate_terms))
    plain = plain_names(run(make_stage1_trainer, checkpoint, records, tmp_path / "plain", **PLAIN_SFT))
    stage2 = plain_names(run(make_stage2_trainer, checkpoint, records, tmp_path / "2", **all_terms))
    trainer = make_stage2_trainer(
        checkpoint,
        records,
        tmp_path / "vllm",
        scripted=False,
        trainer_options={"eval_dataset": records[:2]},
        use_vllm=True,
        parity_check_steps=1,
        **ONE_EVALUATION,
    )
    trainer.train()
    with_vllm = {name for entry in trainer.state.log_history for name in entry}

    logged = stage1 | plain | stage2 | with_vllm
    inherited = described(metrics.INHERITED)
    assert logged - OURS - inherited - {f"eval_{name}" for name in metrics.PARITY} == set()
    assert (OURS - DROPPED | inherited) - logged == {"aux_loss"}
    assert logged & DROPPED  # what was cut

    # Which stage logs what
    only_stage2 = ("rollout/", "loss/bbox", "time/match", "time/generate", "time/parse")
    assert {name for name in OURS & stage2 if name not in stage1} == {
        name for name in OURS & stage2 if name.startswith(only_stage2)
    }
    assert not [name for name in plain if name.startswith(("loss/", *DIAGNOSTICS))]
    assert not [name for name in stage2 if "parity" in name or "sync" in name]


def test_the_code_knows_what_is_described():
    assert list(metrics.LOSSES) == [f"loss/{name}" for name in TERMS]
    assert tuple(metrics.DIAGNOSTICS) == DIAGNOSTICS
    assert list(metrics.ROLLOUTS) == list(RolloutStats().metrics())
    assert list(metrics.DROPPED) == [f"dropped/{reason}" for reason in DROP_REASONS]


def test_every_figure_has_a_unit_and_a_meaning():
    for section in metrics.TRAINING + metrics.EVALUATION:
        assert section.title and section.text.endswith(".")
        for name, metric in section.metrics.items():
            assert metric.unit and metric.meaning.endswith("."), name

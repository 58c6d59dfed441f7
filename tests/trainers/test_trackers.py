# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What reaches the trackers in both stages: numbers, pictures of evaluation images, and tables of completions."""

import dataclasses
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from toys import ScriptedEngine, make_stage1_trainer, make_stage2_trainer, read_events, writer
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from coordexp_trl.evaluation.pictures import draw_overlay
from coordexp_trl.evaluation.scores import object_scores
from coordexp_trl.images import load_image
from coordexp_trl.records import DetectionObject, read_records
from coordexp_trl.trainers import overlays

MAKERS = {"stage1": make_stage1_trainer, "stage2": make_stage2_trainer}
both_stages = pytest.mark.parametrize("make_trainer", MAKERS.values(), ids=MAKERS.keys())
TRAINED = "loss loss/text loss/coord_ce loss/coord_gate coord_mass learning_rate time/forward_backward".split()
ROLLED_OUT = "rollout/f1 rollout/parse_rate loss/bbox_l1 loss/bbox_iou time/generate".split()
EVALUATED = "f1 f1_75 ap ar precision recall parse_rate time/generate runtime".split()
SHORT = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
EVALUATIONS = [0, 2, 4, 4]  # before, twice within, and after it


def make(make_trainer, checkpoint, records, folder, eval_dataset=None, callbacks=None, **options):
    """A trainer whose rollouts are imperfect copies of the ground truth."""
    evaluated = records[:5] if eval_dataset is None else eval_dataset
    trainer = make_trainer(
        checkpoint,
        records,
        folder,
        trainer_options={"eval_dataset": evaluated, "callbacks": callbacks},
        **({"per_device_train_batch_size": 4, "log_overlays": 2} | options),
    )
    ScriptedEngine(trainer, records, writer(trainer))
    return trainer


def run(trainer):
    """Evaluates before and after training, as the recipes do."""
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()


def steps(events: list) -> list[int]:
    return [event.step for event in events]


def pixels(event) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def expected_overlay(trainer, records, number: int) -> np.ndarray:
    """The overlay of a record, drawn from what the scripted engine writes for it."""
    ids = list(trainer.engine.answers.values())[number]
    parsed = trainer.protocol.parse(ids)
    picture = draw_overlay(
        load_image(records[number]),
        records[number].objects,
        [DetectionObject(desc=item.desc, bins=item.bins) for item in parsed.objects],
        object_scores(parsed, [-0.01 * place - 0.001 * number for place in range(len(ids))]),
        title=records[number].images[0],
    )
    return np.asarray(picture)


@both_stages
def test_tensorboard_holds_numbers_and_pictures_at_their_steps(
    make_trainer, checkpoint, records, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    trainer = make(make_trainer, checkpoint, records, tmp_path / "out", report_to="tensorboard", **SHORT)
    run(trainer)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing beside the output folder
    events = read_events(tmp_path / "out")
    for name in TRAINED + (ROLLED_OUT if make_trainer is make_stage2_trainer else []):
        assert steps(events.Scalars(f"train/{name}")) == [1, 2, 3, 4], name
    for name in EVALUATED:
        assert steps(events.Scalars(f"eval/{name}")) == EVALUATIONS, name
    logged = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry]
    assert [event.value for event in events.Scalars("eval/f1")][1:] == pytest.approx(logged[-3:])
    assert events.Tags()["images"] == ["eval/overlays/0", "eval/overlays/1"]
    for number in range(2):
        shown = events.Images(f"eval/overlays/{number}")
        assert steps(shown) == EVALUATIONS
        for event in shown:
            assert np.array_equal(pixels(event), expected_overlay(trainer, records, number))


@both_stages
def test_pictures_cost_no_generation_and_can_be_off(make_trainer, checkpoint, records, tmp_path):
    calls = []
    for count in (0, 3):
        folder = tmp_path / str(count)
        trainer = make(make_trainer, checkpoint, records, folder, report_to="tensorboard", log_overlays=count)
        trainer.evaluate()
        assert len(read_events(folder).Tags()["images"]) == count
        calls.append(trainer.engine.calls)
    assert calls[0] == calls[1] and calls[0]


class Other(TrainerCallback):
    """A tracker that takes numbers only."""


@both_stages
@pytest.mark.parametrize("callbacks", [None, [Other()]], ids=["none", "numbers only"])
def test_nothing_is_drawn_where_no_tracker_takes_pictures(
    make_trainer, checkpoint, records, tmp_path, monkeypatch, callbacks
):
    def refuse(*args, **kwargs):
        raise AssertionError("drawn")

    monkeypatch.setattr(overlays, "draw_overlay", refuse)
    trainer = make(make_trainer, checkpoint, records, tmp_path, callbacks=callbacks, report_to="none")
    assert trainer.evaluate()["eval_f1"] > 0
    trainer = make(make_trainer, checkpoint, records, tmp_path, callbacks=callbacks, report_to="tensorboard")
    with pytest.raises(AssertionError, match="drawn"):
        trainer.evaluate()


def test_a_picture_that_is_gone_does_not_stop_the_run(checkpoint, records, tmp_path, caplog):
    source = Path(records[0].source.rsplit(":", 1)[0])
    copied = read_records(Path(shutil.copytree(source.parent, tmp_path / "shapes"), source.name))
    trainer = make(make_stage1_trainer, checkpoint, copied, tmp_path / "out", report_to="tensorboard")
    generate = trainer.engine.generate

    def lose_the_first(*args):
        copied[0].image_path.unlink(missing_ok=True)
        return generate(*args)

    trainer.engine.generate = lose_the_first
    assert trainer.evaluate()["eval_f1"] > 0
    assert read_events(tmp_path / "out").Tags()["images"] == ["eval/overlays/0"]  # the second picture
    assert "No overlay" in caplog.text and "000000.png" in caplog.text


# W&B and trackio are heavy, and every import of TRL imports W&B where it is installed: a stand-in takes their place


class Recorder:
    """What is used of the modules `wandb` and `trackio`: records rows, and refuses those outside of a run."""

    Image = dataclasses.make_dataclass("Image", ["picture", "caption"])
    Table = dataclasses.make_dataclass("Table", ["dataframe"])

    def __init__(self):
        self.run = None
        self.runs: list[str | None] = []
        self.rows: list[dict] = []
        self.config = {}
        self.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))

    def init(self, name=None, **kwargs):
        if name not in self.runs:
            self.runs.append(name)
        self.config = SimpleConfig()
        self.run = SimpleNamespace(summary={}, url=None, _label=lambda **kwargs: None)

    def log(self, row):
        assert self.run is not None, "no run has begun"
        self.rows.append(row)

    def finish(self):
        self.run = None


class SimpleConfig(dict):
    def update(self, values, allow_val_change):
        super().update(values)


@pytest.fixture(params=["wandb", "trackio"])
def recorder(request, monkeypatch) -> Recorder:
    module = Recorder()
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.config_util", SimpleNamespace(ConfigError=ValueError))
    monkeypatch.setattr(integration_utils, f"is_{request.param}_available", lambda: True)
    module.name = request.param
    return module


def rows_with(recorder: Recorder, key: str) -> list[dict]:
    return [row for row in recorder.rows if key in row]


@both_stages
def test_wandb_and_trackio_are_given_numbers_and_pictures_at_their_steps(
    make_trainer, checkpoint, records, tmp_path, recorder
):
    trainer = make(make_trainer, checkpoint, records, tmp_path, report_to=recorder.name, **SHORT)
    run(trainer)
    for name in TRAINED + (ROLLED_OUT if make_trainer is make_stage2_trainer else []):
        assert [row["train/global_step"] for row in rows_with(recorder, f"train/{name}")] == [1, 2, 3, 4], name
    for name in EVALUATED:
        assert [row["train/global_step"] for row in rows_with(recorder, f"eval/{name}")] == EVALUATIONS, name
    shown = rows_with(recorder, "eval/overlays/0")
    assert [row["train/global_step"] for row in shown] == EVALUATIONS
    for row in shown:
        assert row.keys() == {"eval/overlays/0", "eval/overlays/1", "train/global_step"}  # one call for all of them
        for number in range(2):
            image = row[f"eval/overlays/{number}"]
            assert image.caption == f"{records[number].images[0]} (step {row['train/global_step']})"
            assert np.array_equal(np.asarray(image.picture), expected_overlay(trainer, records, number))
    assert len(recorder.runs) == 1  # one run for all, though trackio's ends with the training
    assert recorder.config["log_overlays"] == 2


def test_several_sets_take_turns_and_a_prefix_names_the_series(checkpoint, records, tmp_path, recorder):
    sets = {"a": records[:3], "b": records[:2]}
    trainer = make(make_stage1_trainer, checkpoint, records, tmp_path, sets, report_to=recorder.name, log_overlays=3)
    trainer.evaluate(metric_key_prefix="test")
    (row,) = rows_with(recorder, "test/overlays/0")
    assert rows_with(recorder, "test/f1") and not rows_with(recorder, "eval/overlays/0")
    names = [row[f"test/overlays/{number}"].caption for number in range(3)]
    assert names == [f"{records[number].images[0]} (step 0)" for number in (0, 0, 1)] and "test/overlays/3" not in row


def test_completions_go_to_wandb_and_trackio(checkpoint, records, tmp_path, recorder):
    trainer = make(
        make_stage2_trainer, checkpoint, records, tmp_path, report_to=recorder.name, log_completions=True, max_steps=2
    )
    trainer.train()
    rows = rows_with(recorder, "completions")
    assert [row["train/global_step"] for row in rows[:2]] == [1, 2]
    table = rows[1]["completions"].dataframe
    assert list(table["image"]) == [record.images[0] for record in records[4:]]
    assert set(table["step"]) == {2} and table["completion"].str.contains("<|coord_", regex=False).all()


def test_a_name_of_the_run_is_kept(checkpoint, records, tmp_path, recorder):
    trainer = make(
        make_stage1_trainer, checkpoint, records, tmp_path, report_to=recorder.name, run_name="mine", log_overlays=0
    )
    trainer.evaluate()
    assert recorder.runs == ["mine"]

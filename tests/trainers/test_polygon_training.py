# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Both stages on records that mix polygons and boxes, and the same runs as before where there is none."""

import dataclasses
import math

import pytest
import torch
from toys import (
    ScriptedEngine,
    imperfect,
    logged,
    make_stage1_trainer,
    make_stage2_trainer,
    one_step,
    outcome,
    parameters_of,
    spy,
    writer,
)

from coordexp_trl.records import DetectionObject
from coordexp_trl.sequences import ground_truth

MODES = ("two_sequence", "appended", "expert")
NATIVE = {"geometry": "native", "max_completion_length": 256}
SHARED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
# What a model may write: all in one point, on a line, crossing itself, twice the same vertices, very many
DEGENERATE = [(9,) * 6, (0, 0, 500, 500, 999, 999), (0, 0, 999, 999, 999, 0, 0, 999), (1, 2, 80, 9, 50, 90) * 2]
DEGENERATE += [tuple((k * k * 37) % 1000 for k in range(400))]


def hexagon(item: DetectionObject) -> DetectionObject:
    """The box of an object in pixels with two corners cut off."""
    x1, y1, x2, y2 = item.bbox_2d
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return DetectionObject(desc=item.desc, poly=(x, y1, x2, y1, x2, y, x, y2, x1, y2, x1, y))


@pytest.fixture
def mixed(records):
    """In each picture the first object is a polygon, the others are boxes."""
    return [
        dataclasses.replace(record, objects=(hexagon(record.objects[0]), *record.objects[1:])) for record in records
    ]


def native_writer(trainer, change):
    return lambda record: trainer.protocol.encode(change(ground_truth(record, trainer.grid, geometry="native")))


def disturbed(objects):
    """Polygons and boxes that are nearly right, boxes for polygons, and hopeless polygons."""
    found = [
        DetectionObject(desc=item.desc, bins=tuple(min(max(k + 5, 0), 999) for k in item.bins)) for item in objects
    ]
    found += [DetectionObject(desc=item.desc, bins=tuple(round(999 * k) for k in item.box)) for item in objects]
    return [*found, *(DetectionObject(desc="ghost", bins=bins) for bins in DEGENERATE)]


def assert_trained(before, trainer):
    logs = logged(trainer)
    assert logs and all(math.isfinite(entry["loss"]) for entry in logs)
    after = parameters_of(trainer.model)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in after)


def assert_evaluated(trainer, f1: float):
    metrics = trainer.evaluate()
    assert metrics["eval_f1"] == pytest.approx(f1) and 0 <= metrics["eval_ap"] <= 1
    assert all(math.isfinite(value) for name, value in metrics.items())


@pytest.mark.parametrize("protocol", ["tags", "json"])
def test_stage1_writes_polygons(checkpoint, mixed, tmp_path, monkeypatch, protocol):
    trainer = make_stage1_trainer(
        checkpoint,
        mixed,
        tmp_path,
        {"eval_dataset": mixed[:4]},
        max_steps=2,
        protocol=protocol,
        **NATIVE,
        **SHARED,
    )
    calls, before = spy(monkeypatch, trainer), parameters_of(trainer.model)
    trainer.train()
    assert_trained(before, trainer)
    ids, labels = calls[0][1]["input_ids"][0], calls[0][1]["labels"][0]
    (polygon, *boxes) = trainer.protocol.parse(ids[labels != -100]).objects
    assert polygon.is_polygon and len(polygon.slots) == 12 and not any(item.is_polygon for item in boxes) and boxes
    # Evaluation is by boxes: polygons that are right are found
    ScriptedEngine(trainer, mixed[:4], native_writer(trainer, lambda objects: objects))
    assert_evaluated(trainer, f1=1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("match_mask_iou", [False, True])
def test_stage2_trains_on_its_own_polygons(checkpoint, mixed, tmp_path, mode, match_mask_iou):
    trainer = make_stage2_trainer(
        checkpoint,
        mixed,
        tmp_path,
        scripted=False,
        trainer_options={"eval_dataset": mixed[:4]},
        mode=mode,
        match_mask_iou=match_mask_iou,
        max_steps=2,
        log_completions=True,
        num_completions_to_print=1,
        **NATIVE,
        **SHARED,
    )
    ScriptedEngine(trainer, mixed, native_writer(trainer, disturbed))
    before = parameters_of(trainer.model)
    trainer.train()
    assert_trained(before, trainer)
    logs = logged(trainer)[0]
    assert logs["rollout/recall"] == 1.0 and logs["rollout/invalid_boxes"] == 1.0  # the point
    assert all(logs[name] > 0 for name in ("loss/bbox_l1", "loss/bbox_iou", "loss/coord_ce"))
    ScriptedEngine(trainer, mixed[:4], native_writer(trainer, lambda objects: objects))
    assert_evaluated(trainer, f1=1.0)


def test_a_rollout_that_ends_in_a_polygon(checkpoint, mixed, tmp_path):
    trainer = make_stage2_trainer(checkpoint, mixed, tmp_path, scripted=False, max_steps=1, **NATIVE, **SHARED)
    cut = native_writer(trainer, lambda objects: objects[:1])
    ScriptedEngine(trainer, mixed, lambda record: cut(record)[:-8], finish_reason="length")
    before = parameters_of(trainer.model)
    trainer.train()
    assert_trained(before, trainer)
    (logs,) = logged(trainer)
    assert logs["rollout/truncation_rate"] == 1.0 and logs["rollout/objects_predicted"] == 0.0


@pytest.mark.parametrize("make", [make_stage1_trainer, make_stage2_trainer])
def test_without_polygons_the_options_change_nothing(checkpoint, records, tmp_path, make):
    options = {"geometry": "native"} | ({"match_mask_iou": True} if make is make_stage2_trainer else {})
    runs = [one_step(checkpoint, records, tmp_path, make=make, max_steps=2, **SHARED, **on)[2] for on in ({}, options)]
    first, second = map(outcome, runs)
    assert first["logs"] == second["logs"]  # to the last bit
    assert all(torch.equal(value, second["parameters"][name]) for name, value in first["parameters"].items())


@pytest.mark.parametrize("make", [make_stage1_trainer, make_stage2_trainer])
def test_by_default_a_polygon_counts_as_its_box(checkpoint, mixed, records, tmp_path, make):
    runs = [one_step(checkpoint, items, tmp_path, make=make, **SHARED)[2] for items in (mixed, records)]
    first, second = map(outcome, runs)
    assert first["logs"] == second["logs"]
    assert all(torch.equal(value, second["parameters"][name]) for name, value in first["parameters"].items())


def test_longer_polygons_count_in_the_lengths(checkpoint, mixed, tmp_path):
    with pytest.raises(ValueError, match=r"8 of 8 records of train_dataset exceed max_length=60"):
        make_stage1_trainer(checkpoint, mixed, tmp_path, geometry="native", max_length=60)


def test_the_scripted_boxes_still_match_polygons(checkpoint, mixed, tmp_path):
    trainer = make_stage2_trainer(checkpoint, mixed, tmp_path, scripted=False, max_steps=1, **NATIVE, **SHARED)
    ScriptedEngine(trainer, mixed, writer(trainer, imperfect))  # boxes only
    before = parameters_of(trainer.model)
    trainer.train()
    assert_trained(before, trainer)
    assert logged(trainer)[0]["rollout/recall"] > 0.7

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A model is asked as it was in training, unless the user says otherwise."""

import json

import pytest
from toys import make_stage1_trainer, make_stage2_trainer

from coordexp_trl.checkpoints import PROMPTING_FILE, read_prompting
from coordexp_trl.cli import main
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.records import read_records
from coordexp_trl.tiny import detector_path


@pytest.mark.parametrize("make_trainer", [make_stage1_trainer, make_stage2_trainer])
def test_trainers_keep_how_they_asked(checkpoint, tmp_path, make_trainer):
    records = read_records(create_shapes(tmp_path / "data", 2, image_size=64, max_objects=2))
    options = {"prompt": "Find shapes.", "protocol": "json", "max_pixels": 65536}
    trainer = make_trainer(checkpoint, records, tmp_path / "run", **options)
    trainer.save_model()
    assert read_prompting(tmp_path / "run") == options
    assert read_prompting(None, tmp_path / "data", tmp_path / "run") == options  # the first that has it


def test_inference_asks_as_in_training(tmp_path):
    data = create_shapes(tmp_path / "data", 1, image_size=64, max_objects=2)
    argv = ["infer", "--model", str(detector_path()), "--data", str(data), "--max-completion-length", "40"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["prompt"] == "Detect."
    assert main([*argv, "--out", str(tmp_path / "other"), "--prompt", "Look.", "--max-pixels", "40000"]) == 0
    run = json.loads((tmp_path / "other/run.json").read_text())
    assert run["prompt"] == "Look." and run["settings"]["max_pixels"] == 40000


def test_a_damaged_file_is_named(tmp_path):
    assert read_prompting(tmp_path, None, "some/model-id") == {}
    (tmp_path / PROMPTING_FILE).write_text("[]")
    with pytest.raises(ValueError, match="coordexp.json: must hold a JSON object"):
        read_prompting(tmp_path)

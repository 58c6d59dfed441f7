# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Both recipes: mistakes that must stop them before training begins, the plan, and the configuration files."""

import json
import re

import pytest
from running import CONFIGS, RECIPES, main_of, options

from coordexp_trl import CoordExpStage1Config, CoordExpStage2Config
from coordexp_trl.recipe import RecipeArguments, RecipeParser, run_recipe
from coordexp_trl.tiny import create_tiny_checkpoint

MISTAKES = [
    # (changed options, what the message must name)
    ({"lerning_rate": 1}, ["--lerning_rate", "--learning_rate"]),
    ({"protocol": "xml"}, ["protocol='xml'", "tags"]),
    ({"train_file": "missing.jsonl"}, ["missing.jsonl"]),
    ({"model_name_or_path": "/no/such/model"}, ["/no/such/model"]),
    ({"model_name_or_path": "no/such/model"}, ["'no/such/model': no such folder"]),
    ({"max_steps": "many"}, ["max_steps", "many"]),
    ({"max_length": 52, "max_completion_length": 8}, ["of 6 records", "max_length=52", "shapes.jsonl:", "too_long"]),
    ({"freeze": "visual_tower"}, ["visual_tower", "vision_tower"]),
]
both = pytest.mark.parametrize("stage", [1, 2])


def message_of(stage, arguments, monkeypatch, capsys) -> str:
    """What a run prints that a mistake stops."""
    main = main_of(stage, arguments, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        run_recipe(main)
    assert stopped.value.code == 2
    _, *message = re.split(r"^error: ", capsys.readouterr().err, flags=re.MULTILINE)
    assert len(message) == 1 and "Traceback" not in message[0]
    return message[0]


@both
@pytest.mark.parametrize(("changes", "named"), MISTAKES, ids=[next(iter(changes)) for changes, _ in MISTAKES])
def test_mistakes_stop_before_training(stage, changes, named, work, monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    message = message_of(stage, options(work, stage, output_dir=run, **changes), monkeypatch, capsys)
    for part in named:
        assert part in message
    assert not run.exists() or not list(run.iterdir())


@pytest.mark.parametrize(
    ("stage", "changes", "named"),
    [
        (1, {"model_name_or_path": None}, ["model_name_or_path is not set"]),
        (1, {"packing": "true"}, ["packing=True", "Stage-1"]),
        (1, {"object_order": "shuffled"}, ["object_order='shuffled'", "random"]),
        (2, {"mode": "both"}, ["mode='both'", "two_sequence"]),
    ],
)
def test_mistakes_of_one_stage(stage, changes, named, work, monkeypatch, capsys, tmp_path):
    message = message_of(stage, options(work, stage, output_dir=tmp_path, **changes), monkeypatch, capsys)
    for part in named:
        assert part in message


@both
def test_an_unreadable_image_stops_before_training(stage, work, monkeypatch, capsys, tmp_path):
    lines = (work / "shapes" / "shapes.jsonl").read_text().splitlines()
    (tmp_path / "images").mkdir()
    for number, line in enumerate(lines):
        name = json.loads(line)["images"][0]
        content = (work / "shapes" / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if number == 2 else content)
    (tmp_path / "cut.jsonl").write_text("\n".join(lines))
    arguments = options(
        work, stage, train_file=tmp_path / "cut.jsonl", output_dir=tmp_path / "run", check_images="true"
    )
    assert "cut.jsonl:3" in message_of(stage, arguments, monkeypatch, capsys)


@both
def test_a_checkpoint_without_coordinate_tokens(stage, work, monkeypatch, capsys, tmp_path):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0, hidden_size=64, num_layers=1, vision_depth=2)
    arguments = options(work, stage, model_name_or_path=plain, output_dir=tmp_path / "run")
    message = message_of(stage, arguments, monkeypatch, capsys)
    assert "coordinate tokens are missing" in message and f"`coordexp expand-vocab --src {plain} --dst DIR`" in message


@both
def test_the_folder_of_another_run_is_refused(stage, work, monkeypatch, capsys, tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    message = message_of(stage, options(work, stage, output_dir=tmp_path), monkeypatch, capsys)
    assert str(tmp_path) in message and "--resume_from_checkpoint" in message


# The plan


@both
def test_a_dry_run_prints_configuration_and_plan_and_stops(stage, work, monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    changes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": None}
    if stage == 1:
        del changes["steps_per_generation"]
    main_of(stage, [*options(work, stage, output_dir=run, **changes), "--dry_run"], monkeypatch)()
    printed = capsys.readouterr().out
    for title in ("RecipeArguments", f"CoordExpStage{stage}Config", "ModelConfig"):
        assert f"# {title}\n" in printed
    assert "\nmax_completion_length: 48\n" in printed and f"\ntrain_file: {work}/shapes/shapes.jsonl\n" in printed
    rows = dict(re.findall(r"^ *(\S.*?) {2,}(\S.*?) *$", printed, flags=re.MULTILINE))
    assert rows["training images"] == "6" and rows["processes"] == "1"
    assert rows["images per optimizer step"] == "4"
    assert rows["optimizer steps"] == "4 (2.0 epochs)"
    assert not run.exists() or not list(run.iterdir())


# The configuration files


@pytest.mark.parametrize("file", sorted(RECIPES.glob("stage*.yaml")), ids=lambda file: file.name)
def test_every_configuration_file_is_understood(file):
    from trl import ModelConfig

    config = {"1": CoordExpStage1Config, "2": CoordExpStage2Config}[file.name[5]]
    parser = RecipeParser((RecipeArguments, config, ModelConfig))
    arguments = ["--config", str(file), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    for name in ("train_file", "output_dir", "model_name_or_path"):  # what a file leaves to the command line
        if not re.search(rf"^{name}:", file.read_text(), flags=re.MULTILINE):
            arguments += [f"--{name}", "given"]
    _, parsed, _ = parser.parse_args_and_config(arguments)
    assert type(parsed) is config


def test_the_files_of_these_tests_exist():
    assert all((RECIPES / name).is_file() for name in CONFIGS.values())

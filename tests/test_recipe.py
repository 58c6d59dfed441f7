# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What recipes read: the configuration file, the command line, and whether the output folder may be used."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from coordexp_trl.recipe import RecipeArguments, RecipeParser, check_output_dir


@dataclass
class RunArguments:
    """Stands in for a trainer's configuration."""

    learning_rate: float = 1e-5
    max_steps: int = -1
    freeze: list[str] = field(default_factory=list)
    bf16: bool = True
    run_name: str | None = None


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def parse(*args):
    return RecipeParser((RecipeArguments, RunArguments)).parse_args_and_config(list(args))


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(write):
    config = write("train_file: a.jsonl\nlearning_rate: 1e-3\nmax_steps: 7\nfreeze: [vision_tower, projector]\n")
    recipe, run = parse("--config", config, "--max_steps", "9", "--num_overlays=2")
    assert (recipe.train_file, recipe.num_overlays, recipe.check_images) == ("a.jsonl", 2, True)
    assert run == RunArguments(learning_rate=1e-3, max_steps=9, freeze=["vision_tower", "projector"])


@pytest.mark.parametrize(
    "place",
    [["--config", "{}", "--max_steps", "9"], ["--max_steps", "9", "--config", "{}"], ["--config={}", "--max_steps=9"]],
    ids=["first", "last", "with an equals sign"],
)
def test_the_file_may_be_named_anywhere(write, place):
    config = write("train_file: a.jsonl\nmax_steps: 7\n")
    recipe, run = parse(*(part.format(config) for part in place))
    assert recipe.train_file == "a.jsonl" and run.max_steps == 9


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--learning-rate", "0.5"], {"learning_rate": 0.5}),  # dashes and underscores both work
        (["--max_steps", "-1"], {"max_steps": -1}),  # a value is not an option
        (["--freeze", "vision_tower", "a-b"], {"freeze": ["vision_tower", "a-b"]}),
        (["--bf16", "false"], {"bf16": False}),
        (["--no_bf16"], {"bf16": False}),
        (["--no-bf16"], {"bf16": False}),
        (["--run_name", "learning_rat=3"], {"run_name": "learning_rat=3"}),
    ],
)
def test_forms_of_options(args, values):
    _, run = parse("--train_file", "a.jsonl", *args)
    assert run == RunArguments(**values)


def test_flags_of_the_recipe():
    recipe, _ = parse("--train_file", "a.jsonl", "--dry_run", "--overwrite-output-dir", "--no_check_images")
    assert (recipe.dry_run, recipe.overwrite_output_dir, recipe.check_images) == (True, True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train_file: a.jsonl\n\n# slow\nlearning_rat: 1\n",
            r"run\.yaml:4: unknown key 'learning_rat'; .*'learning_rate'",
        ),
        ("Max_Steps: 3\n", r"run\.yaml:1: unknown key 'Max_Steps'; .*'max_steps'"),
        ("max_steps: 3\nlearning-rate: 1\n", r"run\.yaml:2: unknown key 'learning-rate'; .*'learning_rate'"),
        ("zzzz: 3\n", r"run\.yaml:1: unknown key 'zzzz'\."),  # nothing is near
        ("env:\n  A: b\nfreez: []\n", r"run\.yaml:3: unknown key 'freez'; .*'freeze'"),
        ("", "must hold `option: value` lines"),
        ("- max_steps\n- 3\n", "must hold `option: value` lines"),
        ("max_steps\n", "must hold `option: value` lines"),
        ("max_steps: [3\nfreeze: 1\n", r"run\.yaml: not valid YAML: .*line"),
        (b"train_file: \xff\n", r"run\.yaml: not valid YAML: .*utf-8"),
    ],
)
def test_mistakes_in_the_file_are_named(write, text, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        parse("--config", write(text), "--train_file", "a.jsonl")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--learning_rat", "1"], "unknown option '--learning_rat'; did you mean '--learning_rate'"),
        (["--learning_rat=1"], "did you mean '--learning_rate'"),
        (["--lr", "1"], "unknown option '--lr'"),
        (["--max"], "unknown option '--max'"),  # abbreviations are not guessed
        (["--qwertzuiop"], r"unknown option '--qwertzuiop'\."),
        (["--config"], "--config needs the name of a YAML file"),
        (["--config", "--max_steps", "3"], "config='--max_steps': no such file"),
        (["--config", "nowhere.yaml"], "config='nowhere.yaml': no such file"),
        (["--config", "."], r"config='\.': no such file"),
    ],
)
def test_mistakes_on_the_command_line_are_named(args, message):
    with pytest.raises(ValueError, match=message):
        parse("--train_file", "a.jsonl", *args)


def test_an_environment_section_sets_variables(write, monkeypatch):
    monkeypatch.setenv("COORDEXP_TEST_VARIABLE", "before")
    parse("--config", write("env:\n  COORDEXP_TEST_VARIABLE: 3\ntrain_file: a.jsonl\n"))
    assert os.environ["COORDEXP_TEST_VARIABLE"] == "3"


def output_dir(folder, *content) -> SimpleNamespace:
    for name in content:
        path = folder / name
        if name.endswith(("json", "txt")):
            path.write_text("{}")
        else:
            path.mkdir()
    return SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=None)


@pytest.mark.parametrize(
    "content", [[], ["notes.txt"], ["checkpoints"]], ids=["empty", "other files", "other folders"]
)
def test_a_folder_without_a_run_may_be_used(tmp_path, content):
    check_output_dir(output_dir(tmp_path, *content), overwrite=False)


def test_a_folder_that_does_not_exist_may_be_used(tmp_path):
    check_output_dir(SimpleNamespace(output_dir=str(tmp_path / "new"), resume_from_checkpoint=None), overwrite=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["checkpoint-10", "trainer_state.json", "config.json"])
def test_a_run_is_not_overwritten_unasked(tmp_path, content):
    args = output_dir(tmp_path, content)
    with pytest.raises(ValueError, match="already holds a run.*--resume_from_checkpoint.*--overwrite_output_dir"):
        check_output_dir(args, overwrite=False)
    check_output_dir(args, overwrite=True)
    assert args.resume_from_checkpoint is None


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_resuming_finds_the_last_checkpoint(tmp_path, value):
    args = output_dir(tmp_path, "checkpoint-9", "checkpoint-10", "config.json")
    args.resume_from_checkpoint = value
    check_output_dir(args, overwrite=False)
    assert args.resume_from_checkpoint == str(tmp_path / "checkpoint-10")


def test_resuming_from_a_named_checkpoint_is_left_to_the_trainer(tmp_path):
    args = output_dir(tmp_path, "checkpoint-9", "checkpoint-10")
    args.resume_from_checkpoint = str(tmp_path / "checkpoint-9")
    check_output_dir(args, overwrite=False)
    assert args.resume_from_checkpoint == str(tmp_path / "checkpoint-9")


@pytest.mark.parametrize("content", [[], ["config.json"]], ids=["empty", "a finished run"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_resuming_needs_a_checkpoint(tmp_path, content, overwrite):
    args = output_dir(tmp_path, *content)
    args.resume_from_checkpoint = True
    with pytest.raises(ValueError, match="resume_from_checkpoint is true but .* holds no checkpoint"):
        check_output_dir(args, overwrite)


def test_resuming_needs_the_folder(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path / "new"), resume_from_checkpoint="true")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        check_output_dir(args, overwrite=False)

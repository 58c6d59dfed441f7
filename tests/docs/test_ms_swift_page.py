# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""docs/ms-swift.md and the plugins that it names, against the source in ms-swift's wheel."""

import ast
import re
import shlex
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
from references import Reference, find_references, is_in_source, stated_versions, wheel_modules
from shell_blocks import read_blocks
from transformers import Seq2SeqTrainingArguments

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ms-swift.md").read_text("utf-8")
PLUGINS = sorted((ROOT / "recipes" / "ms_swift").glob("*.py"))
# What the plugins reach through an object that ms-swift gives them, or replace
REACHED = [
    Reference("swift.trainers.mixin", ("SwiftMixin", "create_loss_and_eval_metric")),
    Reference("swift.trainers.seq2seq_trainer", ("Seq2SeqTrainer", "compute_loss")),
    Reference("swift.template.templates.qwen", ("Qwen3VLTemplate", "image_token_id")),
]


def imported(source: str) -> list[Reference]:
    """What a plugin imports from ms-swift."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    swift = [node for node in nodes if node.module.partition(".")[0] == "swift"]
    return [Reference(node.module, (alias.name,)) for node in swift for alias in node.names]


def attributes(source: str) -> set[str]:
    """Names of annotated attributes of classes, as dataclasses have them."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return {item.target.id for node in classes for item in node.body if isinstance(item, ast.AnnAssign)}


def sft_commands() -> list[list[str]]:
    blocks = [block.code.replace("\\\n", " ") for block in read_blocks(PAGE) if block.language == "bash"]
    lines = [line for code in blocks for line in code.splitlines() if "swift sft" in line]
    return [shlex.split(line) for line in lines]


@pytest.mark.wheel
def test_objects_exist(ms_swift):
    references = [*find_references(PAGE), *REACHED]
    for plugin in PLUGINS:
        references += imported(plugin.read_text("utf-8"))
    assert Reference("swift.loss.base", ("BaseLoss",)) in references
    read = wheel_modules(ms_swift)
    assert [str(item) for item in references if not is_in_source(item, read)] == []


@pytest.mark.wheel
def test_options_exist(ms_swift: zipfile.ZipFile):
    sources = [name for name in ms_swift.namelist() if re.match(r"swift/(arguments|trainers)/.*\.py$", name)]
    known = {item.name for item in fields(Seq2SeqTrainingArguments)}
    known = known.union(*(attributes(ms_swift.read(name).decode("utf-8")) for name in sources))
    commands = sft_commands()
    assert len(commands) == 2
    used = {part.removeprefix("--") for command in commands for part in command if part.startswith("--")}
    assert {"external_plugins", "loss_type", "freeze_aligner"} <= used
    assert used - known == set()


@pytest.mark.wheel
def test_the_trainer_calls_as_the_plugin_expects(ms_swift: zipfile.ZipFile):
    """The trainer has its template when it makes the loss, and takes the loss as the step's own."""
    mixin = ms_swift.read("swift/trainers/mixin.py").decode("utf-8")
    assert mixin.index("self.template = template") < mixin.index(
        "kwargs.update(self.create_loss_and_eval_metric(args))"
    )
    assert "res['compute_loss_func'] = loss_map[args.loss_type](args, self)" in mixin
    call = "outputs, labels, num_items_in_batch=num_items_in_batch, loss_scale=loss_scale, trainer=self)"
    trainer = ms_swift.read("swift/trainers/seq2seq_trainer.py").decode("utf-8")
    assert call in trainer and "loss *= self.accelerator.num_processes" in trainer
    assert "def get_batch_samples" not in mixin + trainer  # the plugin wraps that of transformers


def test_versions_are_those_of_the_study():
    version = stated_versions((ROOT / "docs" / "infrastructure.md").read_text("utf-8"))["ms-swift"]
    assert f"This page is about ms-swift {version}." in PAGE and f'"ms-swift=={version}"' in PAGE

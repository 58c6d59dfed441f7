# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Writes docs/reference/: every option, metric and command, from the docstrings and tables in the code."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable
from pathlib import Path

from command_reference import commands_page
from docstrings import (
    LINKS,
    Option,
    capitalised,
    changed_defaults,
    introduction,
    linked,
    options,
    table,
)
from transformers import TrainingArguments
from trl import ModelConfig

from coordexp_trl import CoordExpStage1Config, CoordExpStage2Config
from coordexp_trl.evaluation.metrics import RESULTS, Metric
from coordexp_trl.generation import VLLMConfig
from coordexp_trl.recipe import RecipeArguments
from coordexp_trl.trainers import metrics
from coordexp_trl.trainers.detection_config import DetectionConfig
from coordexp_trl.trainers.stage1_config import FIXED_OPTIONS, PLAIN_SFT_OPTIONS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
HEADER = "<!-- Generated from the code by `make reference`: change it there. -->"
OPTION_COLUMNS = ["option", "type", "default", "meaning"]


def pages() -> dict[str, str]:
    """Returns the text of each page by the name of its file."""
    content = {
        "stage1-config.md": config_page("Stage-1", [CoordExpStage1Config, DetectionConfig], stage1_restrictions()),
        "stage2-config.md": config_page("Stage-2", [CoordExpStage2Config, DetectionConfig, VLLMConfig]),
        "recipes.md": recipe_page(),
        "metrics.md": metrics_page(),
        "commands.md": commands_page(),
    }
    return {name: "\n\n".join([HEADER, *blocks]) + "\n" for name, blocks in content.items()}


# Options


def config_page(stage: str, documented: list[type], restrictions: Iterable[str] = ()) -> list[str]:
    """
    Args:
        stage (`str`):
            `"Stage-1"` or `"Stage-2"`.
        documented (`list[type]`):
            Its configuration class and those of the bases whose docstrings are read, in the order of the page.
        restrictions (`Iterable[str]`, *optional*):
            Blocks above the inherited options.

    Returns:
        `list[str]`: Blocks of Markdown.
    """
    config = documented[0]
    groups: dict[str, list[Option]] = {}
    changed: dict[str, str] = {}
    for owner in documented:
        for title, entries in options(owner).items():
            groups.setdefault(re.sub("^Parameters that control (the )?", "", title), []).extend(entries)
        changed |= changed_defaults(owner)
    blocks = [
        f"# `{config.__name__}`",
        f"The configuration of [{stage}](../{stage.replace('-', '').lower()}.md). A [recipe](recipes.md) takes each "
        "field as an option.",
        linked(introduction(config)),
    ]
    for title, entries in groups.items():
        title, _, condition = title.removesuffix(")").partition(" (")
        blocks += [f"## {capitalised(title)}", *filter(None, [capitalised(condition)])]
        blocks.append(options_table(config, entries))
    types = typing.get_type_hints(config)
    rows = [
        [f"`{name}`", f"`{_type_name(types[name])}`", _default(config, name), text] for name, text in changed.items()
    ]
    blocks += ["## Other defaults than the base class", table(OPTION_COLUMNS, rows), *restrictions]
    own = {entry.name for entries in groups.values() for entry in entries} | changed.keys()
    if config is CoordExpStage1Config:
        own |= {name for name, *_ in FIXED_OPTIONS + PLAIN_SFT_OPTIONS}
    return blocks + inherited_options(config, own)


def options_table(config: type, entries: list[Option]) -> str:
    rows = [[f"`{entry.name}`", entry.type, _default(config, entry.name), entry.text] for entry in entries]
    return table(OPTION_COLUMNS, rows)


def _default(config: type, name: str) -> str:
    """Default of a field as code."""
    field = config.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "required"
    else:
        value = field.default
    return f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`"


def _type_name(hint: typing.Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def stage1_restrictions() -> list[str]:
    """Options of SFT that Stage-1 refuses."""
    rows = [[f"`{name}`", f"`{value!r}`", f"{capitalised(reason)}."] for name, value, reason in FIXED_OPTIONS]
    plain = "Other values with all `coord_*_weight` at 0 only: they do not go with the coordinate losses."
    rows += [[f"`{name}`", f"`{value!r}`", plain] for name, value in PLAIN_SFT_OPTIONS]
    return [
        "## Options that keep their value",
        linked(
            "Options of [`~trl.SFTConfig`] that would do nothing here, or something else than they say. Other "
            "values are an error."
        ),
        table(["option", "value", "why"], rows),
    ]


def inherited_options(config: type, without: set[str]) -> list[str]:
    """Names of the fields that public base classes outside of this project declare."""
    blocks, listed = ["## Inherited"], set(without)
    for base in config.__mro__:
        if base.__name__ not in LINKS:
            continue
        declared = base.__dataclass_fields__ if base is TrainingArguments else inspect.get_annotations(base)
        names = [item.name for item in dataclasses.fields(base) if item.name in declared and item.name[0] != "_"]
        blocks.append(f"{linked(f'[`{base.__name__}`]')}: " + _listed(name for name in names if name not in listed))
        listed |= set(names)
    return blocks


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) + "."


def recipe_page() -> list[str]:
    (entries,) = options(RecipeArguments).values()
    return [
        "# Options of the recipes",
        "`recipes/stage1.py` and `recipes/stage2.py` take the options below and all those of their stage "
        "([Stage-1](stage1-config.md), [Stage-2](stage2-config.md)): in the YAML file that `--config FILE` names, or "
        "on the command line, which wins. In YAML, `env` maps names of environment variables to values.",
        "## The run",
        options_table(RecipeArguments, entries),
        "## The model",
        linked("Of TRL's [`ModelConfig`]; `model_name_or_path` is required. ")
        + _listed(item.name for item in dataclasses.fields(ModelConfig)),
    ]


# Metrics


def metrics_page() -> list[str]:
    blocks = [
        "# Metrics",
        "What the trainers log every `logging_steps` and at every evaluation: to the console, to "
        "`trainer_state.json`, and to the [trackers](../trackers.md), which write `eval/f1` for `eval_f1` and "
        "`train/loss/text` for `loss/text`. Figures of training are means over the steps, or the generations, since "
        "the last log.",
    ]
    for title, text, sections in (
        ("Training", "", metrics.TRAINING),
        (
            "Evaluation",
            "Greedy rollouts of all evaluation images, each counted once. Of several sets, or a "
            "[fusion](../data/fusion.md#evaluation) of several sources, each also has its own: `eval_{name}_f1`, … "
            "There is no evaluation loss.",
            metrics.EVALUATION,
        ),
    ):
        blocks += [f"## {title}", *filter(None, [text])]
        for section in sections:
            blocks += [f"### {section.title}", section.text, _metrics_table(section.metrics)]
    for section in metrics.INHERITED:
        blocks += [f"## {section.title}", section.text, _metrics_table(section.metrics)]
    return [
        *blocks,
        "## `coordexp eval`",
        "`metrics` in the `metrics.json` that [`coordexp eval`](../evaluation.md) writes. A true positive is a "
        "prediction of the right description with an IoU of at least `--iou-threshold`, one to one in an image. "
        "`null` stands for what there is nothing to compute from.",
        _metrics_table(RESULTS),
    ]


def _metrics_table(described: dict[str, Metric]) -> str:
    rows = [[_listed(names.split(", "))[:-1], metric.unit, metric.meaning] for names, metric in described.items()]
    return table(["name", "unit or range", "meaning"], rows)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()

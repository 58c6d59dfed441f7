# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the configurations share: options that are refused or derived, and a documentation that matches."""

import dataclasses
import re

import pytest
from toys import stage1_config, stage2_config
from transformers import TrainingArguments
from trl import SFTConfig, TrlParser

from coordexp_trl import CoordExpStage1Config, CoordExpStage2Config
from coordexp_trl.generation import VLLMConfig
from coordexp_trl.trainers.detection_config import DetectionConfig

CONFIGS = {"stage1": stage1_config, "stage2": stage2_config}
both = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@both
@pytest.mark.parametrize(
    ("options", "field", "value", "remedy"),
    [
        ({"protocol": "xml"}, "protocol", "'xml'", "'tags', 'json'"),
        ({"too_long": "cut"}, "too_long", "'cut'", "'error', 'drop'"),
        ({"remove_unused_columns": True}, "remove_unused_columns", "True", "Leave it False"),
        ({"coord_w1_weight": -0.5}, "coord_w1_weight", "-0.5", "0 or greater"),
        ({"coord_gate_weight": float("nan")}, "coord_gate_weight", "nan", "finite"),
        ({"coord_ce_weight": float("inf")}, "coord_ce_weight", "inf", "finite"),
        ({"coord_sigma": 0.0}, "coord_sigma", "0.0", "positive"),
        ({"max_length": 0}, "max_length", "0", "positive"),
        ({"eval_iou_threshold": 0.0}, "eval_iou_threshold", "0.0", "(0, 1]"),
        ({"eval_iou_threshold": 50}, "eval_iou_threshold", "50", "(0, 1]"),
        ({"log_overlays": -1}, "log_overlays", "-1", "0 or greater"),
        ({"max_completion_length": 0}, "max_completion_length", "0", "at least 1"),
    ],
)
def test_bad_options_are_refused_with_field_value_and_remedy(tmp_path, config, options, field, value, remedy):
    with pytest.raises(ValueError) as error:
        config(tmp_path, **options)
    for part in (field, value, remedy):
        assert part in str(error.value)


@both
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Nothing asks for a best model: several evaluation sets have no common `eval_f1`
        ({}, None),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}, "f1"),
        ({"save_strategy": "best", "eval_strategy": "steps"}, "f1"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}, "f1"),
        ({"metric_for_best_model": "mean_iou"}, "mean_iou"),
    ],
)
def test_the_best_model_is_the_one_of_highest_f1(tmp_path, config, options, expected):
    config = config(tmp_path, **({"eval_steps": 1, "save_steps": 1} | options))
    assert config.metric_for_best_model == expected
    assert config.greater_is_better == (None if expected is None else True)


@both
def test_evaluation_decodes_greedily_and_keeps_log_probabilities(tmp_path, config):
    sampling = config(tmp_path, max_completion_length=9, repetition_penalty=1.1).eval_sampling_config
    assert (sampling.temperature, sampling.num_beams, sampling.num_generations) == (0.0, 1, 1)
    assert (sampling.max_completion_length, sampling.repetition_penalty, sampling.logprobs) == (9, 1.1, True)


@pytest.mark.parametrize("config", [CoordExpStage1Config, CoordExpStage2Config])
def test_unknown_yaml_keys_fail(tmp_path, config):
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: out\nuse_cpu: true\ncord_gate_weight: 1.0\n")
    with pytest.raises(ValueError, match="cord_gate_weight"):
        TrlParser((config,)).parse_args_and_config(["--config", str(file)])


# Documentation


def defaults_of(config: type) -> dict:
    """Default of every option."""
    return {
        item.name: item.default_factory() if item.default is dataclasses.MISSING else item.default
        for item in dataclasses.fields(config)
    }


def added(config: type, *bases: type) -> list[str]:
    """Options that a configuration adds to its bases."""
    inherited = {item.name for base in bases for item in dataclasses.fields(base)}
    return [name for name in defaults_of(config) if name not in inherited]


OWN = {
    DetectionConfig: added(DetectionConfig, TrainingArguments),
    CoordExpStage1Config: added(CoordExpStage1Config, DetectionConfig, SFTConfig),
    VLLMConfig: list(VLLMConfig.__dataclass_fields__),
    CoordExpStage2Config: added(CoordExpStage2Config, VLLMConfig, DetectionConfig, TrainingArguments),
}


@pytest.mark.parametrize(("config", "names"), OWN.items(), ids=[config.__name__ for config in OWN])
def test_every_own_option_has_help_and_documentation_with_its_default(config, names):
    entries = dict(re.findall(r"^        (\w+) \(`(.+)\):$", config.__doc__, flags=re.MULTILINE))
    assert list(entries) == names != []  # in the order of the fields, and nothing else
    for name in names:
        assert config.__dataclass_fields__[name].metadata["help"]
        default = defaults_of(config)[name]
        stated = re.search(r"defaults to `(.*)`", entries[name])
        if stated:
            assert eval(stated[1]) == default, name
        else:
            assert default is None or name == "prompt", name


@pytest.mark.parametrize(
    ("config", "base"), [(CoordExpStage1Config, SFTConfig), (CoordExpStage2Config, TrainingArguments)]
)
def test_every_changed_default_is_documented(config, base):
    note = config.__doc__ + DetectionConfig.__doc__
    stated = dict(re.findall(r"> - `(\w+)`: Defaults to `(.+?)`", note))
    now, before = defaults_of(config), defaults_of(base)
    changed = {name for name in now if name in before and now[name] != before[name]}
    assert set(stated) == changed
    assert all(eval(stated[name]) == now[name] for name in changed - {"bf16"})  # it depends on fp16

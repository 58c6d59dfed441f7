# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The Stage-1 configuration: what it refuses and what it derives."""

import dataclasses

import pytest
from toys import COORD_WEIGHTS, PLAIN_SFT, stage1_config
from trl import SFTConfig, TrlParser
from trl.trainer.base_config import _BaseConfig

from coordexp_trl import CoordExpStage1Config

# Options of TRL's fine-tuning that do nothing here, with a value that a user may try
REFUSED = {
    "packing": True,
    "eval_packing": True,
    "padding_free": True,
    "assistant_only_loss": True,
    "completion_only_loss": False,
    "chat_template_path": "template.jinja",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "pad_to_multiple_of": 8,
    "truncation_mode": "keep_end",
    "shuffle_dataset": True,
    "dataset_text_field": "caption",
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "dataset_num_proc": 2,
    "trust_remote_code": True,
}


@pytest.mark.filterwarnings("ignore:.*is deprecated.*:FutureWarning", "ignore:The `'keep_end'`:FutureWarning")
@pytest.mark.parametrize(("name", "value"), REFUSED.items(), ids=REFUSED)
@pytest.mark.parametrize("weights", [{}, PLAIN_SFT], ids=["coordinates", "plain"])
def test_options_that_would_do_nothing_are_refused(tmp_path, name, value, weights):
    with pytest.raises(ValueError, match=rf"{name}=.*{value if isinstance(value, str) else ''}.*Stage-1: \w+"):
        stage1_config(tmp_path, **{name: value}, **weights)


def test_every_option_of_fine_tuning_is_used_or_refused():
    # A new option of TRL's must be put on one of the sides
    used = {"model_init_kwargs", "max_length", "loss_type", "router_aux_loss_coef", "activation_offloading"}
    used |= {"packing_strategy"}  # of what is refused
    own, inherited = ({item.name for item in dataclasses.fields(config)} for config in (SFTConfig, _BaseConfig))
    assert own - inherited == used | set(REFUSED)


@pytest.mark.parametrize(
    ("options", "value", "default"),
    [({"loss_type": "dft"}, "'dft'", "'nll'"), ({"label_smoothing_factor": 0.1}, "0.1", "0.0")],
)
def test_other_losses_go_with_plain_fine_tuning_only(tmp_path, options, value, default):
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name}={value} .*{default}.*coord_\*_weight to 0"):
        stage1_config(tmp_path, **options)
    for weight in COORD_WEIGHTS:  # any one weight is enough
        with pytest.raises(ValueError, match=name):
            stage1_config(tmp_path, **options, **(PLAIN_SFT | {weight: 0.1}))
    config = stage1_config(tmp_path, **options, **PLAIN_SFT)
    assert config.is_plain_sft and getattr(config, name) == options[name]


def test_an_unknown_order_is_refused(tmp_path):
    with pytest.raises(ValueError, match="object_order='shuffled'.*'sorted', 'random', 'as_is'"):
        stage1_config(tmp_path, object_order="shuffled")


def test_options_parse_from_yaml_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "output_dir: out\nobject_order: as_is\ncoord_w1_weight: 1\nfreeze: [vision_tower]\n"
        "chat_template_kwargs: {style: brief}\nmodel_init_kwargs: {dtype: bfloat16}\n"
    )
    arguments = ["--config", str(file), "--object_order", "random", "--use_cpu", "true", "--bf16", "false"]
    (config,) = TrlParser((CoordExpStage1Config,)).parse_args_and_config([*arguments, "--too_long", "drop"])
    assert (config.object_order, config.too_long, config.freeze) == ("random", "drop", ["vision_tower"])
    assert config.coord_weights["coord_w1"] == 1.0 and config.max_length is None
    assert config.chat_template_kwargs == {"style": "brief"} and config.model_init_kwargs == {"dtype": "bfloat16"}

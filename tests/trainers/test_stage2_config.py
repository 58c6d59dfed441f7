# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The Stage-2 configuration: what it refuses and what it derives."""

import dataclasses

import pytest
from toys import ALL_WEIGHTS, stage2_config
from trl import TrlParser

from coordexp_trl import CoordExpStage2Config


@pytest.mark.parametrize(
    ("options", "field", "value", "remedy"),
    [
        ({"mode": "two-sequence"}, "mode", "'two-sequence'", "'two_sequence', 'appended', 'expert'"),
        ({"extra_policy": "ignore"}, "extra_policy", "'ignore'", "'expert', 'neutral'"),
        ({"missed_order": "first"}, "missed_order", "'first'", "'last', 'canonical'"),
        ({"iou_loss": "diou"}, "iou_loss", "'diou'", "'giou', 'ciou'"),
        # One case a weight: none is forgotten
        *[({name: -0.5}, name, "-0.5", "0 or greater") for name in ALL_WEIGHTS],
        ({"coord_gate_weight_end": -1.0}, "coord_gate_weight_end", "-1.0", "0 or greater"),
        ({"eos_weight": -1.0}, "eos_weight", "-1.0", "0 or greater"),
        ({"self_context_coord_weight": -1.0}, "self_context_coord_weight", "-1.0", "0 or greater"),
        ({"own_token_weight": -1.0}, "own_token_weight", "-1.0", "0 or greater"),
        ({"match_l1_weight": -1.0}, "match_l1_weight", "-1.0", "0 or greater"),
        ({"match_giou_weight": -1.0}, "match_giou_weight", "-1.0", "0 or greater"),
        ({"match_desc_weight": -1.0}, "match_desc_weight", "-1.0", "0 or greater"),
        # A weight that is no number would be seen as a non-finite loss only after the first rollout
        ({"bbox_l1_weight": float("nan")}, "bbox_l1_weight", "nan", "finite"),
        ({"text_weight": float("inf")}, "text_weight", "inf", "finite"),
        (dict.fromkeys(ALL_WEIGHTS, 0.0), "_weight", "0", "at least one"),
        ({"match_min_iou": 1.5}, "match_min_iou", "1.5", "[0, 1]"),
        ({"match_min_iou": -0.1}, "match_min_iou", "-0.1", "[0, 1]"),
        ({"coord_temperature": 0.0}, "coord_temperature", "0.0", "positive"),
        ({"coord_temperature_end": -1.0}, "coord_temperature_end", "-1.0", "positive"),
        ({"coord_top_k": 0}, "coord_top_k", "0", "positive"),
        # One generation serves whole optimizer steps
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 6}, "steps_per_generation", "6", "multiple"),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, "steps_per_generation", "2", "multiple"),
        ({"steps_per_generation": 0}, "steps_per_generation", "0", "positive multiple"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy", "group_by_length", "Leave it out"),
        # Decoding
        ({"num_generations": 2}, "num_generations", "2", "temperature above 0"),
        ({"num_generations": 3, "num_beams": 2}, "num_generations", "3", "num_beams"),
        ({"num_beams": 2, "temperature": 0.7}, "num_beams", "2", "temperature=0"),
        ({"temperature": -0.1}, "temperature", "-0.1", "0 for greedy"),
        ({"num_generations": 0}, "num_generations", "0", "at least 1"),
    ],
)
def test_bad_options_are_refused_with_field_value_and_remedy(tmp_path, options, field, value, remedy):
    with pytest.raises(ValueError) as error:
        stage2_config(tmp_path, **options)
    for part in (field, value, remedy):
        assert part in str(error.value)


def test_steps_per_generation_defaults_to_one_optimizer_step(tmp_path):
    assert stage2_config(tmp_path, gradient_accumulation_steps=4).steps_per_generation == 4
    config = stage2_config(tmp_path, gradient_accumulation_steps=4, steps_per_generation=8)
    assert config.steps_per_generation == 8


def test_schedules_move_linearly_and_only_where_an_end_is_given(tmp_path):
    config = stage2_config(
        tmp_path, coord_temperature=2.0, coord_temperature_end=1.0, coord_gate_weight=0.5, coord_gate_weight_end=0.0
    )
    points = [config.loss_config(progress) for progress in (0.0, 0.25, 1.0)]
    assert [point.temperature for point in points] == [2.0, 1.75, 1.0]
    assert [point.weights["coord_gate"] for point in points] == [0.5, 0.375, 0.0]
    constant = stage2_config(tmp_path, coord_temperature=2.0, coord_gate_weight=0.5).loss_config(0.9)
    assert (constant.temperature, constant.weights["coord_gate"]) == (2.0, 0.5)


def test_options_reach_matching_decoding_and_losses(tmp_path):
    config = stage2_config(
        tmp_path,
        match_min_iou=0.4,
        match_l1_weight=1.5,
        match_giou_weight=2.5,
        match_desc_weight=3.5,
        max_completion_length=9,
        num_generations=2,
        temperature=0.7,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        repetition_penalty=1.1,
        generation_kwargs='{"no_repeat_ngram_size": 3}',
        coord_sigma=1.5,
        coord_top_k=7,
        iou_loss="ciou",
        **{name: 0.1 * number for number, name in enumerate(ALL_WEIGHTS)},
    )
    matching = config.matching_config
    assert (matching.min_iou, matching.l1_weight, matching.giou_weight, matching.desc_weight) == (0.4, 1.5, 2.5, 3.5)
    sampling = config.sampling_config
    assert dataclasses.asdict(sampling) == {
        "max_completion_length": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "num_beams": 1,
        "num_generations": 2,
        "logprobs": False,
        "coord_logits": False,
        "top_logprobs": 0,
        "generation_kwargs": {"no_repeat_ngram_size": 3},
    }
    losses = config.loss_config(0.0)
    assert (losses.sigma, losses.top_k, losses.iou_loss) == (1.5, 7, "ciou")
    assert losses.weights == {name.removesuffix("_weight"): 0.1 * number for number, name in enumerate(ALL_WEIGHTS)}


def test_options_parse_from_yaml_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "output_dir: out\nmode: appended\ntemperature: 1\nfreeze: [vision_tower]\ngeneration_kwargs: {top_k: 5}\n"
    )
    parser = TrlParser((CoordExpStage2Config,))
    arguments = ["--config", str(file), "--mode", "expert", "--use_cpu", "true", "--bf16", "false"]
    (config,) = parser.parse_args_and_config([*arguments, "--coord_gate_weight_end", "0.1"])
    assert (config.mode, config.temperature, config.freeze) == ("expert", 1.0, ["vision_tower"])
    assert config.generation_kwargs == {"top_k": 5}
    assert config.coord_gate_weight_end == 0.1

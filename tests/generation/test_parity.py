# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The parity probe: what the model would have chosen, and when two engines count as the same."""

import math
from dataclasses import replace

import pytest
import torch

from coordexp_trl.generation import Rollout, SamplingConfig
from coordexp_trl.generation.parity import Parity, compare, model_choices, require_parity

END = 1


@pytest.fixture
def coord(vocabulary):
    return lambda k: int(vocabulary.ids[k])


def rollout(*ids, reason="stop"):
    return Rollout(prompt_ids=[], completion_ids=list(ids), finish_reason=reason)


def test_greedy_tokens_are_the_models_own_choices(model, make_engine, prompts):
    engine = make_engine(model)
    rollouts = engine.generate(prompts, SamplingConfig(max_completion_length=12))
    choices = model_choices(model, prompts, rollouts, engine.image_token_id, engine.suppress_tokens)
    for item, chosen in zip(rollouts, choices, strict=True):
        assert chosen[: len(item.completion_ids)] == item.completion_ids
        assert len(chosen) == len(item.completion_ids) + 1
        if item.finish_reason == "stop":
            assert chosen[-1] in engine.eos_token_ids


def test_suppressed_tokens_are_no_choice(model, make_engine, prompts):
    engine = make_engine(model)
    rollouts = engine.generate(prompts, SamplingConfig(max_completion_length=4))
    favourite = rollouts[0].completion_ids[0]
    choices = model_choices(model, prompts, rollouts, engine.image_token_id, [favourite])
    assert favourite not in sum(choices, [])


def test_another_image_is_noticed(model, make_engine, prompts, vocabulary):
    engine = make_engine(model)
    rollouts = engine.generate(prompts, SamplingConfig(max_completion_length=12))
    noise = torch.randn(prompts[0].pixel_values.shape, generator=torch.Generator().manual_seed(0))
    changed = [replace(prompts[0], pixel_values=noise), *prompts[1:]]
    choices = model_choices(model, changed, rollouts, engine.image_token_id, engine.suppress_tokens)
    parity = compare(rollouts, choices, vocabulary, engine.eos_token_ids)
    assert parity.first_difference[0] == 0


@pytest.mark.parametrize(
    ("written", "chosen", "bins", "agreement", "first"),
    [
        # equal, the end included
        (rollout(5, ("c", 10), 6), [5, ("c", 10), 6, END], 0, 1, None),
        # a coordinate off by 4 bins: a distance, not a disagreement
        (rollout(5, ("c", 10), ("c", 20)), [5, ("c", 14), ("c", 20), END], 2, 1, (0, 1)),
        # another word
        (rollout(5, 7, ("c", 1)), [5, 8, ("c", 1), END], 0, 2 / 3, (0, 1)),
        # text where a coordinate was written counts among the text
        (rollout(("c", 1)), [9, END], math.nan, 0.5, (0, 0)),
        # the model would have gone on
        (rollout(5), [5, 6], math.nan, 0.5, (0, 1)),
        # a cut completion has no end to compare
        (rollout(5, reason="length"), [5, 6], math.nan, 1, None),
        # nothing written at all
        (rollout(reason="length"), [6], math.nan, 1, None),
    ],
)
def test_comparison(vocabulary, coord, written, chosen, bins, agreement, first):
    def ids(tokens):
        return [coord(token[1]) if isinstance(token, tuple) else token for token in tokens]

    written = replace(written, completion_ids=ids(written.completion_ids))
    parity = compare([written], [ids(chosen)], vocabulary, [END])
    assert parity.bins == pytest.approx(bins, nan_ok=True)
    assert parity.agreement == pytest.approx(agreement)
    assert parity.first_difference == first


def test_any_end_token_ends(vocabulary):
    assert compare([rollout(5)], [[5, 2]], vocabulary, [END, 2]).agreement == 1


@pytest.mark.parametrize(
    ("parity", "accepted"),
    [
        (Parity(0, 1), True),
        (Parity(9.9, 0.95), True),
        (Parity(10.1, 1, (0, 3)), False),
        (Parity(0, 0.89, (1, 0)), False),
        (Parity(math.nan, 1), True),  # a model that writes no boxes yet
        (Parity(math.nan, 0.2, (0, 0)), False),
    ],
)
def test_bounds(parity, accepted):
    if accepted:
        require_parity(parity, 10, ["a.jsonl:1", "a.jsonl:2"])
        return
    place = ["a.jsonl:1", "a.jsonl:2"][parity.first_difference[0]]
    with pytest.raises(ValueError, match=rf"token {parity.first_difference[1]} .* {place}.*parity_check_steps=-1"):
        require_parity(parity, 10, ["a.jsonl:1", "a.jsonl:2"])

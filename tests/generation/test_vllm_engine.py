# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The vLLM engine on real vLLM, against the transformers engine on the same weights, in both modes."""

import pytest
from vllm_processes import Results, run_script

pytestmark = pytest.mark.vllm

FOLLOWED = ["full", "lora", "lora_rows", "vision_only"]
CASES = [("colocate", name) for name in [*FOLLOWED, "dora"]] + [
    ("server", name) for name in [*FOLLOWED, "lora_saved_head"]
]
MODES = pytest.mark.parametrize("mode", ["colocate", "server"])


@pytest.fixture(scope="module")
def results(detector, untied_detector, vllm_server, tmp_path_factory):
    """The results of a mode; its process runs when the first of them is asked for."""
    folders = {}

    def of(mode: str) -> Results:
        if mode not in folders:
            folders[mode] = tmp_path_factory.mktemp(mode)
            if mode == "server":
                vllm_server.wait()
                run_script("vllm_scenarios.py", mode, untied_detector, folders[mode], vllm_server.url, deadline=300)
            else:
                run_script("vllm_scenarios.py", mode, detector, folders[mode], deadline=300)
        return Results(folders[mode])

    return of


@MODES
def test_greedy_completions_are_those_of_transformers(results, mode):
    result = results(mode)("greedy")
    lengths = {len(rollout.prompt_ids) for rollout in result["expected"]}
    assert len(lengths) > 1, "prompts of different lengths were wanted"
    for actual, expected in zip(result["actual"], result["expected"], strict=True):
        assert actual.completion_ids == expected.completion_ids
        assert actual.finish_reason == expected.finish_reason
        assert actual.prompt_ids == expected.prompt_ids
        assert actual.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert {rollout.finish_reason for rollout in result["expected"]} == {"stop", "length"}


@MODES
def test_sampling_gives_several_completions_a_prompt(results, mode):
    result = results(mode)("sampling")
    two = result["two"]
    assert [rollout.prompt_ids for rollout in two[::2]] == [rollout.prompt_ids for rollout in two[1::2]]
    assert len({tuple(rollout.completion_ids) for rollout in two}) == len(two)
    assert result["top_1"] == result["greedy"]


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_vllm_follows_the_weights(results, mode, name):
    result = results(mode)(name)
    assert result["start"] == result["expected_start"]
    previous = result["expected_start"]
    for change in result["rounds"]:
        assert change["stale"] == previous != change["expected"], (
            "the change must be seen, and only after the transfer"
        )
        assert change["actual"] == change["expected"]
        assert change["untouched"], "the transfer changed the model in training"
        previous = change["expected"]
    assert not result.get("merged")


@MODES
def test_images_seen_before_are_encoded_anew_after_a_transfer(results, mode):
    result = results(mode)("stale_features")
    assert result["unguarded"] == result["old"] != result["expected"], "without the reset the features are stale"
    assert result["guarded"] == result["expected"]


@MODES
def test_placeholders_are_never_written(results, mode):
    result = results(mode)("placeholder")
    assert any(result["token"] in ids for ids in result["unguarded"]), "the placeholder was not forced up"
    assert not any(result["token"] in ids for ids in result["guarded"])
    assert result["guarded"] == result["expected"]


def test_colocated_vllm_expands_expanded_prompts_again(results):
    result = results("colocate")("doubled")
    for prompt, seen in zip(result["prompts"], result["seen"], strict=True):
        assert len(seen) > len(prompt), "collapsing the placeholders is not needed any more"


def test_the_server_takes_expanded_prompts_only(results):
    error = results("server")("unexpanded")["error"]
    assert "tokens of an image that the training prompt has with 0" in error and "do_resize" in error


@MODES
def test_requests_that_cannot_be_served(results, mode):
    messages = results(mode)("limits")
    remedy = {"colocate": "Set vllm_max_model_length to", "server": "--max-model-len set to"}
    assert remedy[mode] in messages["context"]
    assert "Set num_beams=1" in messages["beams"]
    assert "log-probabilities only" in messages["coord_logits"]
    assert "no_repeat_ngram_size" in messages["unknown"]
    if mode == "colocate":
        assert "exceeds vllm_max_num_batched_tokens=10" in messages["image"]


@MODES
def test_parity_tells_stale_weights(results, mode):
    result = results(mode)("parity")
    assert (result["good"].bins, result["good"].agreement, result["good"].first_difference) == (0, 1, None)
    assert not result["stale"].acceptable(max_bins=10)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The `transformers` engine against teacher-forced forwards of the same model."""

import pytest
import torch
from torch import nn

from coordexp_trl.generation import SamplingConfig
from coordexp_trl.models import backbone

LENGTH = 16
GREEDY = SamplingConfig(max_completion_length=LENGTH)


def completions(rollouts) -> list[list[int]]:
    return [rollout.completion_ids for rollout in rollouts]


def log_softmax_of(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def with_bias(model, bias: dict[int, float]):
    """Gives the head a bias for some tokens."""
    head = nn.Linear(*reversed(model.lm_head.weight.shape))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        for token, value in bias.items():
            head.bias[token] = value
    model.lm_head = head
    return model


def test_greedy_is_the_teacher_forced_argmax(model, make_engine, prompts, teacher_forced):
    # Images of three sizes in one left-padded batch, so wrong positions or a wrong mask would show.
    engine = make_engine(model)
    rollouts = engine.generate(prompts, GREEDY)
    assert len({tuple(ids) for ids in completions(rollouts)}) == 3  # what is written depends on the image
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        assert rollout.prompt_ids == prompt.ids and len(rollout.completion_ids) == LENGTH
        logits = teacher_forced(model, prompt, rollout.completion_ids)
        logits[:, engine.suppress_tokens] = -torch.inf
        assert logits.argmax(-1).tolist() == rollout.completion_ids


def test_a_left_padded_batch_gives_what_each_prompt_gives_alone(model, make_engine, prompts):
    engine = make_engine(model)
    together = engine.generate(prompts, GREEDY)
    alone = [engine.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert completions(together) == completions(alone)


def test_repetition_penalty_top_k_and_logprobs(model, make_engine, prompts, teacher_forced):
    # Log-probabilities are the model's own, whatever filters the choice went through.
    engine = make_engine(with_bias(model, {1280: 3.0}))  # a token that is often repeated
    sampling = SamplingConfig(
        max_completion_length=LENGTH,
        temperature=0.5,
        top_k=20,
        repetition_penalty=1.5,
        num_generations=2,
        logprobs=True,
        coord_logits=True,
    )
    rollouts = engine.generate(prompts, sampling)
    for index, rollout in enumerate(rollouts):
        logits = teacher_forced(model, prompts[index // 2], rollout.completion_ids)
        expected = log_softmax_of(logits, rollout.completion_ids)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)
    penalised, plain = (
        engine.generate(prompts, SamplingConfig(max_completion_length=LENGTH, repetition_penalty=penalty))
        for penalty in (1.5, 1.0)
    )
    repeats = [sum(len(ids) - len(set(ids)) for ids in completions(batch)) for batch in (penalised, plain)]
    assert repeats[0] < repeats[1]


def test_logprobs_count_the_mass_of_suppressed_tokens(model, make_engine, prompts, teacher_forced):
    # With a likely placeholder the probabilities of the other tokens are small, though one of them is always chosen.
    engine = make_engine(with_bias(model, {model.config.image_token_id: 30.0}))
    for prompt, rollout in zip(
        prompts, engine.generate(prompts, SamplingConfig(max_completion_length=4, logprobs=True)), strict=True
    ):
        expected = log_softmax_of(teacher_forced(model, prompt, rollout.completion_ids), rollout.completion_ids)
        assert expected.max() < -5
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_coord_logits_are_those_of_the_slots(model, make_engine, prompts, teacher_forced, vocabulary, temperature):
    # One of the greedy rollouts stops early, and the others go on without it.
    greedy = completions(make_engine(model).generate(prompts, GREEDY))
    end = next(token for token in greedy[2][3:] if token not in greedy[0] + greedy[1])
    engine = make_engine(model, eos_token_ids=[end])
    sampling = SamplingConfig(max_completion_length=LENGTH, temperature=temperature, logprobs=True, coord_logits=True)
    rollouts = engine.generate(prompts, sampling)
    if temperature == 0:
        assert [rollout.finish_reason for rollout in rollouts] == ["length", "length", "stop"]
    seen = 0
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = rollout.completion_ids
        logits = teacher_forced(model, prompt, ids)
        slots = [k for k, token in enumerate(ids) if vocabulary.to_bin(token) is not None]
        seen += len(slots)
        torch.testing.assert_close(rollout.coord_logits, logits[slots][:, vocabulary.ids], rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), log_softmax_of(logits, ids), rtol=0, atol=1e-4)
    assert 0 < seen < sum(map(len, completions(rollouts)))  # coordinates and text


def test_logprobs_and_coord_logits_are_given_on_request_alone(model, make_engine, prompts):
    engine = make_engine(model)
    plain = engine.generate(prompts[:1], SamplingConfig(max_completion_length=2))[0]
    logprobs = engine.generate(prompts[:1], SamplingConfig(max_completion_length=2, logprobs=True))[0]
    slots = engine.generate(prompts[:1], SamplingConfig(max_completion_length=2, coord_logits=True))[0]
    assert plain.logprobs is None and plain.coord_logits is None
    assert len(logprobs.logprobs) == 2 and logprobs.coord_logits is None
    assert slots.logprobs is None and slots.coord_logits.dtype == torch.float32
    assert not model.lm_head._forward_hooks


def test_sampling_is_reproducible_and_keeps_rollouts_of_a_prompt_together(model, make_engine, prompts, teacher_forced):
    engine = make_engine(model)
    sampling = SamplingConfig(max_completion_length=8, temperature=1.0, num_generations=3, logprobs=True)

    def sample(seed):
        torch.manual_seed(seed)
        return engine.generate(prompts, sampling)

    first, again, other = sample(0), sample(0), sample(1)
    assert completions(first) == completions(again) != completions(other)
    assert len(first) == 9 and len({tuple(ids) for ids in completions(first)}) > 6
    for index, rollout in enumerate(first):
        assert rollout.prompt_ids == prompts[index // 3].ids
        # The probabilities are those of this image and no other
        for place, prompt in enumerate(prompts):
            expected = log_softmax_of(teacher_forced(model, prompt, rollout.completion_ids), rollout.completion_ids)
            close = torch.allclose(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)
            assert close == (place == index // 3)


def test_top_k_and_temperature_shape_the_samples(model, make_engine, prompts):
    engine = make_engine(model)
    greedy = completions(engine.generate(prompts, GREEDY))
    for option in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        sampling = SamplingConfig(max_completion_length=LENGTH, temperature=5.0, **option)
        assert completions(engine.generate(prompts, sampling)) == greedy, option
    cold = SamplingConfig(max_completion_length=LENGTH, temperature=1e-4)
    assert completions(engine.generate(prompts, cold)) == greedy
    hot = SamplingConfig(max_completion_length=LENGTH, temperature=5.0)
    assert completions(engine.generate(prompts, hot)) != greedy


def test_the_checkpoint_s_own_generation_settings_do_not_leak_in(model, make_engine, prompts):
    # Qwen checkpoints come with sampling settings of a chat model.
    engine = make_engine(model)
    sampled = SamplingConfig(max_completion_length=LENGTH, temperature=1.0)

    def decode():
        torch.manual_seed(0)
        return completions(engine.generate(prompts, GREEDY) + engine.generate(prompts, sampled))

    before = decode()
    model.generation_config.update(do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=1.5)
    assert decode() == before


def beam_search(model, prompt, teacher_forced, suppressed, width, length):
    """Beam search by hand, with one forward a hypothesis and step; no end token is met."""
    beams = [([], 0.0)]
    for _ in range(length):
        candidates = []
        for ids, score in beams:
            logits = teacher_forced(model, prompt, [*ids, 0])[-1]
            logprobs = logits.log_softmax(-1)
            logprobs[suppressed] = -torch.inf
            best = logprobs.topk(width)
            candidates += [
                ([*ids, token], score + value)
                for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        beams = sorted(candidates, key=lambda item: -item[1])[:width]
    return [ids for ids, _ in beams]


def test_beams_are_those_of_a_search_by_hand(model, make_engine, prompts, teacher_forced):
    engine = make_engine(model)
    sampling = SamplingConfig(max_completion_length=4, num_beams=3, num_generations=2)
    rollouts = engine.generate(prompts, sampling)
    expected = [
        ids
        for prompt in prompts
        for ids in beam_search(model, prompt, teacher_forced, engine.suppress_tokens, 3, 4)[:2]
    ]
    assert completions(rollouts) == expected
    assert [rollout.prompt_ids for rollout in rollouts] == [prompts[k // 2].ids for k in range(6)]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_completion_length=8),
        SamplingConfig(max_completion_length=8, temperature=1.0, num_generations=4),
        SamplingConfig(max_completion_length=8, num_beams=2),
        SamplingConfig(max_completion_length=8, generation_kwargs={"suppress_tokens": [5]}),
    ],
    ids=["greedy", "sampling", "beams", "with other suppressed tokens"],
)
def test_placeholders_are_never_written(model, make_engine, prompts, sampling):
    # Their logits exceed all others by far.
    forced = {model.config.image_token_id: 1e4, model.config.video_token_id: 2e4}
    model = with_bias(model, forced)
    rollouts = make_engine(model).generate(prompts, sampling)
    assert all(rollout.completion_ids and not forced.keys() & set(rollout.completion_ids) for rollout in rollouts)
    # without the ban nothing else would be written
    unbanned = make_engine(model)
    unbanned.suppress_tokens = []
    plain = SamplingConfig(max_completion_length=1)
    assert completions(unbanned.generate(prompts[:1], plain)) == [[model.config.video_token_id]]


def test_tokens_can_be_suppressed_besides_the_placeholders(model, make_engine, prompts):
    engine = make_engine(model)
    (first, *_), *_ = completions(engine.generate(prompts[:1], GREEDY))
    sampling = SamplingConfig(max_completion_length=LENGTH, generation_kwargs={"suppress_tokens": [first]})
    assert first not in engine.generate(prompts[:1], sampling)[0].completion_ids


def test_finish_reason_tells_a_stop_from_a_cut(model, make_engine, prompts):
    greedy = completions(make_engine(model).generate(prompts, GREEDY))
    end, other_end = greedy[0][5], greedy[2][-1]
    rollouts = make_engine(model, eos_token_ids=[end, other_end]).generate(prompts, GREEDY)
    for ids, rollout in zip(greedy, rollouts, strict=True):
        stops = [k for k, token in enumerate(ids) if token in (end, other_end)]
        # The end token does not belong to the completion; the padding after it does not either
        assert rollout.completion_ids == ids[: stops[0] if stops else None]
        assert rollout.finish_reason == ("stop" if stops else "length")
    assert rollouts[0].finish_reason == "stop" and len(rollouts[0].completion_ids) <= 5
    assert rollouts[1].finish_reason == "length" and len(rollouts[1].completion_ids) == LENGTH
    assert rollouts[2].finish_reason == "stop"  # at the very last token that was allowed


@pytest.mark.parametrize("where", ["lm_head.weight", "model.language_model.layers.0.mlp.up_proj.weight"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "top_p": 0.9, "num_generations": 2},
        {"num_beams": 2},
        {"temperature": 1.0, "min_p": 0.1},
    ],
    ids=["greedy", "sampling", "beams", "min_p"],
)
def test_broken_weights_do_not_crash_the_rollout(model, make_engine, prompts, where, options):
    with torch.no_grad():
        model.get_parameter(where).fill_(torch.nan)
    recording = {"logprobs": True, "coord_logits": True} if "num_beams" not in options else {}
    sampling = SamplingConfig(max_completion_length=4, **options, **recording)
    engine = make_engine(model)
    rollouts = engine.generate(prompts, sampling)
    assert len(rollouts) == len(prompts) * sampling.num_generations
    assert not set(engine.suppress_tokens) & {token for ids in completions(rollouts) for token in ids}


def test_a_training_forward_is_the_same_before_and_after_a_rollout(model, make_engine, prompts):
    # `generate` leaves its position offsets on the model: of other images, another batch size, and repeated prompts.
    ids = torch.tensor([prompts[0].ids + [300, 301, 302]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "pixel_values": prompts[0].pixel_values,
        "image_grid_thw": prompts[0].image_grid_thw,
    }

    def forward():
        model.train()
        hidden = backbone(model)(**inputs, use_cache=False).last_hidden_state
        model.eval()
        return hidden.detach()

    before = forward()
    make_engine(model).generate(prompts[1:], SamplingConfig(max_completion_length=3, temperature=1, num_generations=2))
    assert torch.equal(forward(), before)
    rollout = make_engine(model).generate(prompts, GREEDY)
    forward()
    assert completions(make_engine(model).generate(prompts, GREEDY)) == completions(rollout)


def test_generation_leaves_no_graph_behind(model, make_engine, prompts):
    sampling = SamplingConfig(max_completion_length=4, coord_logits=True)
    (rollout, *_) = make_engine(model).generate(prompts, sampling)
    assert model.training is False and not rollout.coord_logits.requires_grad


def test_the_model_is_opened_for_generation_alone(model, make_engine, prompts):
    engine = make_engine(model)
    entered = []

    class Unwrap:
        def __enter__(self):
            entered.append("open")
            return model

        def __exit__(self, *args):
            entered.append("closed")

    engine.unwrap = Unwrap
    engine.generate(prompts, SamplingConfig(max_completion_length=1))
    assert entered == ["open", "closed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_completion_length": 0}, "max_completion_length must be at least 1, got 0"),
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"num_generations": 0}, "num_generations must be at least 1, got 0"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"temperature": 0.5, "num_beams": 2}, "num_beams=2 needs temperature=0, got temperature=0.5"),
        ({"num_generations": 2}, "num_generations=2 with temperature=0 would repeat one completion"),
        ({"num_generations": 3, "num_beams": 2}, "num_generations=3 with temperature=0"),
        ({"num_beams": 2, "logprobs": True}, "not available with num_beams=2"),
        ({"num_beams": 2, "coord_logits": True}, "not available with num_beams=2"),
    ],
)
def test_impossible_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**options)


@pytest.mark.parametrize("name", ["num_return_sequences", "eos_token_id", "pad_token_id"])
def test_options_that_break_the_reading_are_refused(name):
    with pytest.raises(ValueError, match=rf"generation_kwargs\['{name}'\]"):
        SamplingConfig(generation_kwargs={name: 2})

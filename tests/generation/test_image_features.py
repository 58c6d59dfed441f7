# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Vision features that are computed once and served: the same outputs, the same gradients, and nothing left behind."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coordexp_trl.generation import ImageFeatures, SamplingConfig, feature_placeholders
from coordexp_trl.models import backbone

# Sequences of a forward: images by index, one of them twice, and their completions of different lengths.
IMAGES = [2, 0, 2, 1]
COMPLETIONS = [[300, 301], [302], [303, 304, 305, 306], []]

SAMPLINGS = {
    "greedy": SamplingConfig(max_completion_length=8),
    "sampling": SamplingConfig(max_completion_length=8, temperature=1.0, num_generations=3),
    "beams": SamplingConfig(max_completion_length=6, num_beams=3, num_generations=2),
}


@pytest.fixture
def calls(model) -> list[int]:
    """Grows by the number of patches at each run of the first vision block."""
    counts = []
    model.model.visual.blocks[0].register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    return counts


def right_padded(prompts, pixel_values, pad_token_id, image_token_id) -> dict[str, torch.Tensor]:
    rows = [torch.tensor(prompts[k].ids + ids) for k, ids in zip(IMAGES, COMPLETIONS, strict=True)]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.size(1)) < lengths[:, None]).long(),
        "mm_token_type_ids": (input_ids == image_token_id).int(),
        "image_grid_thw": torch.cat([prompts[k].image_grid_thw for k in IMAGES]),
        "pixel_values": pixel_values,
    }


@pytest.fixture
def training_inputs(model, prompts, processor):
    """Model inputs with the given pixel values."""

    def make(pixel_values):
        return right_padded(prompts, pixel_values, processor.tokenizer.pad_token_id, model.config.image_token_id)

    return make


def patches(prompts, images) -> int:
    return sum(len(prompts[k].pixel_values) for k in images)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_generation_is_the_same(model, make_engine, prompts, calls, name):
    engine = make_engine(model)

    def generate(features):
        torch.manual_seed(0)
        return [rollout.completion_ids for rollout in engine.generate(prompts, SAMPLINGS[name], features)]

    plain = generate(None)
    calls.clear()
    with torch.no_grad():
        features = ImageFeatures.encode(backbone(model), prompts)
    assert generate(features) == plain
    assert calls == [patches(prompts, range(3))]  # the tower saw each image once, and not in `generate`


def test_a_training_forward_is_the_same(model, prompts, calls, training_inputs):
    body = backbone(model)
    pixels = torch.cat([prompts[k].pixel_values for k in IMAGES])
    plain = body(**training_inputs(pixels), use_cache=False).last_hidden_state
    calls.clear()
    features = ImageFeatures.encode(body, prompts)
    placeholders = feature_placeholders([prompts[k] for k in IMAGES], IMAGES)
    with features.serve(body):
        served = body(**training_inputs(placeholders), use_cache=False).last_hidden_state
    torch.testing.assert_close(served, plain, rtol=1e-5, atol=1e-5)
    assert calls == [patches(prompts, range(3))]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_tower(model, prompts, training_inputs, checkpointing):
    # The gradients of both uses of image 2 add up, through the merger and through DeepStack.
    body = backbone(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    weights = torch.randn(len(IMAGES), 1, model.config.text_config.hidden_size)

    def gradients(pixel_values):
        model.zero_grad()
        hidden = body(**training_inputs(pixel_values), use_cache=False).last_hidden_state
        (hidden * weights).mean().backward()
        return {name: parameter.grad.clone() for name, parameter in body.visual.named_parameters()}

    plain = gradients(torch.cat([prompts[k].pixel_values for k in IMAGES]))
    model.zero_grad()
    with ImageFeatures.encode(body, prompts).serve(body):
        served = gradients(feature_placeholders([prompts[k] for k in IMAGES], IMAGES))
    assert plain.keys() == served.keys() and any("deepstack_merger_list" in name for name in plain)
    scale = max(grad.abs().max() for grad in plain.values())
    for name, grad in plain.items():
        assert grad.any(), name
        torch.testing.assert_close(served[name], grad, rtol=1e-3, atol=1e-5 * scale.item(), msg=name)


def test_features_of_a_frozen_tower_carry_no_graph(model, prompts):
    model.model.visual.requires_grad_(False)
    features = ImageFeatures.encode(backbone(model), prompts)
    tensors = [*features.embeds, *(level for levels in features.deepstack for level in levels)]
    assert len(tensors) == 6 and not any(tensor.requires_grad for tensor in tensors)


def test_encode_keeps_the_images_apart(model, prompts):
    body = backbone(model)
    with torch.no_grad():
        together = ImageFeatures.encode(body, prompts)
        alone = [ImageFeatures.encode(body, [prompt]) for prompt in prompts]
    for k, (prompt, single) in enumerate(zip(prompts, alone, strict=True)):
        count = prompt.ids.count(model.config.image_token_id)
        assert together.embeds[k].shape == (count, model.config.text_config.hidden_size)
        torch.testing.assert_close(together.embeds[k], single.embeds[0], rtol=1e-4, atol=1e-4)
        assert len(together.deepstack[k]) == len(model.config.vision_config.deepstack_visual_indexes) > 0
        for level, expected in zip(together.deepstack[k], single.deepstack[0], strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


def test_select_refers_to_the_same_tensors(model, prompts):
    with torch.no_grad():
        features = ImageFeatures.encode(backbone(model), prompts)
    chosen = features.select([2, 0])
    assert chosen.embeds[0] is features.embeds[2] and chosen.embeds[1] is features.embeds[0]
    assert chosen.deepstack[0] is features.deepstack[2] and chosen.output_class is features.output_class


def test_placeholders_name_the_image_of_every_patch(prompts):
    placeholders = feature_placeholders([prompts[2], prompts[0]], [7, 300])
    counts = [len(prompts[2].pixel_values), len(prompts[0].pixel_values)]
    assert placeholders[:, 0].tolist() == [7.0] * counts[0] + [300.0] * counts[1]


def test_nothing_stays_patched(model, prompts, training_inputs):
    body = backbone(model)
    with torch.no_grad():
        features = ImageFeatures.encode(body, prompts)
        pixels = torch.cat([prompts[k].pixel_values for k in IMAGES])
        plain = body(**training_inputs(pixels), use_cache=False).last_hidden_state
        for error in (None, KeyError, KeyboardInterrupt):
            try:
                with features.serve(body):
                    assert "get_image_features" in vars(body)
                    if error is not None:
                        raise error
            except (KeyError, KeyboardInterrupt):
                pass
            assert "get_image_features" not in vars(body)
            assert torch.equal(body(**training_inputs(pixels), use_cache=False).last_hidden_state, plain)


def test_nothing_stays_patched_after_a_failed_rollout(model, make_engine, prompts):
    with torch.no_grad():
        features = ImageFeatures.encode(backbone(model), prompts)
    model.model.language_model.norm.register_forward_hook(lambda *_: 1 / 0)
    sampling = SamplingConfig(max_completion_length=2, logprobs=True)
    with pytest.raises(ZeroDivisionError):
        make_engine(model).generate(prompts, sampling, features)
    assert "get_image_features" not in vars(backbone(model)) and not model.lm_head._forward_hooks


def test_features_are_not_served_twice_at_once(model, prompts):
    with torch.no_grad():
        features = ImageFeatures.encode(backbone(model), prompts)
    with features.serve(backbone(model)):
        with pytest.raises(AssertionError, match="served already"), features.serve(backbone(model)):
            pass
        assert "get_image_features" in vars(backbone(model))  # the outer one goes on


def test_features_are_served_to_a_model_with_adapters(model, make_engine, prompts):
    plain = make_engine(model).generate(prompts, SAMPLINGS["greedy"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))  # starts as the model itself
    adapted.eval()
    with torch.no_grad():
        features = ImageFeatures.encode(backbone(adapted), prompts)
    rollouts = make_engine(adapted).generate(
        prompts, SamplingConfig(max_completion_length=8, logprobs=True, coord_logits=True), features
    )
    assert [rollout.completion_ids for rollout in rollouts] == [rollout.completion_ids for rollout in plain]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Families with Qwen-VL's interface: their parts, features served as their own, a step of Stage-2 with each."""

import copy

import pytest
import torch
from families import FAMILIES, build_family
from toys import stage2_config

from coordexp_trl import CoordExpStage2Trainer
from coordexp_trl.generation import ImageFeatures, PromptBuilder, feature_placeholders
from coordexp_trl.images import load_image
from coordexp_trl.models import backbone, freeze_modules, vision_is_frozen
from coordexp_trl.sequences import TrainingSequence
from coordexp_trl.tiny import build_tiny_processor, build_tiny_tokenizer
from coordexp_trl.trainers.micro_batch import collate_tokens

PARTS = ("vision_tower", "projector", "language_model")


@pytest.fixture(scope="module")
def processor():
    return build_tiny_processor(build_tiny_tokenizer())


@pytest.fixture(params=FAMILIES)
def model(request, processor):
    return build_family(request.param, processor.tokenizer)


def test_every_parameter_belongs_to_one_part(model):
    stopped = {}
    for part in PARTS:
        alone = copy.deepcopy(model)
        # Something must stay to be trained, whatever the part
        alone.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
        stopped[part] = freeze_modules(alone, [part])[part]
    assert min(stopped.values()) > 0
    assert sum(stopped.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert not vision_is_frozen(model)
    freeze_modules(model, PARTS[:2])
    assert vision_is_frozen(model)


def test_served_features_give_what_the_model_computes_itself(model, processor, records):
    prompts = PromptBuilder(processor)([load_image(record) for record in records[:2]])
    body = backbone(model)
    images = [1, 0, 1]
    chosen = [prompts[k] for k in images]
    completions = [TrainingSequence(list(range(300, 300 + n)), [], [], []) for n in (4, 0, 7)]
    inputs = collate_tokens(chosen, completions, processor.tokenizer.pad_token_id, model.config.image_token_id)
    pixels = torch.cat([prompt.pixel_values for prompt in chosen])
    with torch.no_grad():
        own = body(**inputs, pixel_values=pixels, use_cache=False).last_hidden_state
        with ImageFeatures.encode(body, prompts).serve(body):
            served = body(**inputs, pixel_values=feature_placeholders(chosen, images), use_cache=False)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(served.last_hidden_state[real], own[real], rtol=1e-5, atol=1e-5)
    assert (own[0, -8] - own[1, -8]).abs().max() > 1e-4  # the images count


@pytest.mark.parametrize("freeze", [[], ["vision_tower", "projector"]], ids=["all", "vision frozen"])
def test_a_step_of_stage2(model, processor, records, tmp_path, freeze):
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = CoordExpStage2Trainer(
        model=model,
        processing_class=processor,
        args=stage2_config(tmp_path, max_steps=1, max_completion_length=16, freeze=freeze, learning_rate=1e-2),
        train_dataset=records[:2],
    )
    trainer.train()
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss/text"] > 0 and entry["loss/coord_ce"] > 0
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert any("language_model" in name for name in moved)
    assert any("visual" in name for name in moved) == (not freeze)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The parts of a model by name: which parameters each one holds, with and without adapters."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coordexp_trl.models import backbone, freeze_modules, vision_is_frozen, without_adapters
from coordexp_trl.tiny import build_tiny_config, build_tiny_model, build_tiny_tokenizer

VISION = ("model.visual.patch_embed.", "model.visual.pos_embed.", "model.visual.blocks.")
PROJECTOR = ("model.visual.merger.", "model.visual.deepstack_merger_list.")
LANGUAGE = ("model.language_model.", "lm_head.")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer(num_bins=0)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, tokenizer):
    config = build_tiny_config(
        tokenizer, hidden_size=32, num_layers=2, vision_depth=2, tie_word_embeddings=request.param
    )
    return build_tiny_model(config, tokenizer)


def adapted(model):
    """Adapters on the linear layers of all three parts."""
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", exclude_modules=["lm_head"]))


def learning(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (["vision_tower"], VISION),
        (["projector"], PROJECTOR),
        (["language_model"], LANGUAGE),
        (["vision_tower", "projector"], VISION + PROJECTOR),
        (["projector", "language_model"], PROJECTOR + LANGUAGE),
        ([r"language_model\.layers\.0\."], ("model.language_model.layers.0.",)),  # a regular expression
        ([r"embed_tokens", "vision_tower"], ("model.language_model.embed_tokens.", *VISION)),
        ([], ()),
    ],
)
def test_freeze(model, names, frozen):
    parameters = dict(model.named_parameters())
    stopped = freeze_modules(model, names)
    assert learning(model) == {name for name in parameters if not name.startswith(frozen)}
    assert list(stopped) == names
    assert sum(stopped.values()) == sum(value.numel() for name, value in parameters.items() if name.startswith(frozen))


def test_the_three_parts_are_the_whole_model(model):
    names = ["vision_tower", "projector", "language_model"]
    counts = [freeze_modules(model, [name])[name] for name in names[:2]]
    with pytest.raises(ValueError, match=r"freeze=\['language_model'\] leaves no parameter to train"):
        freeze_modules(model, ["language_model"])
    language = sum(value.numel() for name, value in model.named_parameters() if name.startswith(LANGUAGE))
    assert min(counts) > 0 and sum(counts) + language == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(
    ("name", "frozen"), [("vision_tower", VISION), ("projector", PROJECTOR), ("language_model", LANGUAGE)]
)
def test_freeze_with_adapters(model, name, frozen):
    # A frozen part's adapters stop too; those of the other parts go on.
    peft_model = adapted(model)
    before = learning(peft_model)
    assert before and all("lora_" in key for key in before)
    freeze_modules(peft_model, [name])
    inside = {key for key in before if key.removeprefix("base_model.model.").startswith(frozen)}
    assert inside and learning(peft_model) == before - inside


def test_a_trained_copy_of_the_head_belongs_to_the_language_model(tokenizer):
    config = build_tiny_config(tokenizer, hidden_size=32, num_layers=2, vision_depth=2, tie_word_embeddings=False)
    model = build_tiny_model(config, tokenizer)
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["lm_head"]))
    assert any("lm_head.modules_to_save" in name for name in learning(peft_model))
    freeze_modules(peft_model, ["language_model"])
    assert learning(peft_model) and all("visual" in name for name in learning(peft_model))


def test_frozen_parts_get_no_gradient(model):
    freeze_modules(model, ["projector", r"layers\.1\."])
    pixels = torch.randn(16, 3 * 2 * 16 * 16)
    features = model.get_image_features(pixels, torch.tensor([[1, 4, 4]]), return_dict=True)
    sum(embeds.sum() for embeds in features.pooler_output).backward()
    assert all(parameter.grad is None for parameter in model.model.visual.merger.parameters())
    assert any(parameter.grad is not None for parameter in model.model.visual.blocks.parameters())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # a misspelt part is read as a pattern, which must match something
        (["vision_towr"], r"freeze='vision_towr' matches no parameter.*'language_model', 'projector', 'vision_tower'"),
        # a line break inside matches nothing
        ([r"visual\.\nblocks"], "matches no parameter"),
        (["(visual"], r"freeze='\(visual' is not a valid regular expression: .*unterminated"),
        (["."], r"freeze=\['\.'\] leaves no parameter to train"),
        (["vision_tower", "projector", "language_model"], "leaves no parameter to train"),
    ],
)
def test_mistakes_are_named(model, names, message):
    with pytest.raises(ValueError, match=message):
        freeze_modules(model, names)


def test_freezing_all_adapters_leaves_nothing(model):
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freeze_modules(peft_model, ["language_model"])


@pytest.mark.parametrize("wrap", [lambda model: model, adapted], ids=["plain", "adapters"])
def test_vision_is_frozen(model, wrap):
    model = wrap(model)
    assert not vision_is_frozen(model)
    freeze_modules(model, ["vision_tower"])
    assert not vision_is_frozen(model)  # the projector still turns pixels into other features
    freeze_modules(model, ["projector"])
    assert vision_is_frozen(model)


def test_adapters_elsewhere_leave_the_vision_frozen(model):
    assert vision_is_frozen(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])))


def test_backbone_and_base_are_found_under_adapters(model):
    assert backbone(model) is model.model and without_adapters(model) is model
    peft_model = adapted(model)
    assert without_adapters(peft_model) is model and backbone(peft_model) is model.model


def test_a_vision_tower_with_other_names_is_an_error_and_not_frozen(model):
    model.model.tower = model.model.visual
    del model.model.visual
    with pytest.raises(ValueError, match="no parameter is named as those of a vision tower"):
        vision_is_frozen(model)

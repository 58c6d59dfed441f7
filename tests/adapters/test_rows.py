# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Trained rows: the same numbers as PEFT's own layer, without its copy of the matrix; configurations that fit."""

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText

from coordexp_trl.adapters.rows import (
    RowLookup,
    check_token_rows,
    token_row_layers,
    use_row_lookup,
    with_token_rows,
)
from coordexp_trl.tiny import create_tiny_checkpoint

V, H = 50, 8
IDS = [40, 3, 17, 41]
SMALL = {"hidden_size": 64, "num_layers": 2, "vision_depth": 2}


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes; views are none."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, torch.Tensor) and not func.is_view:
                self.numel = max(self.numel, value.numel())
        return out


def adapted(kind: str, lookup: bool, rows: int = V, padding: int = 4):
    """A layer of trained rows, moved away from their initial values, and its frozen layer."""
    torch.manual_seed(0)
    base = nn.Embedding(rows, H, padding_idx=padding) if kind == "embedding" else nn.Linear(H, rows, bias=False)
    config = TrainableTokensConfig(target_modules=["matrix"], token_indices=IDS)
    model = get_peft_model(nn.ModuleDict({"matrix": base}), config)
    (layer,) = token_row_layers(model)
    nn.init.normal_(layer.trainable_tokens_delta["default"])
    if lookup:
        use_row_lookup(model)
    return layer


def inputs(kind: str):
    torch.manual_seed(1)
    if kind == "embedding":
        return torch.randint(V, (4, 30)).index_fill_(1, torch.arange(4), 40)
    return torch.randn(4, 30, H, requires_grad=True)


@pytest.mark.parametrize(("kind", "padding"), [("embedding", 4), ("embedding", IDS[1]), ("head", 4)])
def test_values_and_gradients_are_those_of_peft(kind, padding):
    results = []
    for lookup in (False, True):
        layer, x = adapted(kind, lookup, padding=padding), inputs(kind)
        assert isinstance(layer, RowLookup) is lookup
        out = layer(x)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append((out, layer.trainable_tokens_delta["default"].grad, x.grad))
    for theirs, ours in zip(*results, strict=True):
        assert (theirs is None and ours is None) or torch.allclose(theirs, ours, atol=1e-5)
    assert results[1][1].abs().sum() > 0


@pytest.mark.parametrize("kind", ["embedding", "head"])
def test_no_copy_of_the_matrix_is_made(kind):
    numel = []
    for lookup in (False, True):
        layer, x = adapted(kind, lookup, rows=5000), inputs(kind)[:, 0]
        layer(x)  # what depends on the tokens alone is made once
        with LargestTensor() as largest:
            layer(x).sum().backward()
        numel.append(largest.numel)
    assert numel[0] >= 5000 * H > numel[1]


@pytest.mark.parametrize("kind", ["embedding", "head"])
def test_merged_disabled_and_unmerged_rows(kind):
    layer, x = adapted(kind, True), inputs(kind)
    with torch.no_grad():
        out = layer(x)
        layer.merge()
        assert torch.allclose(layer(x), out, atol=1e-6)
        layer.unmerge()
        assert torch.equal(layer(x), out)
        layer.enable_adapters(False)
        assert torch.equal(layer(x), layer.base_layer(x)) and not torch.allclose(layer(x), out)


def test_rows_without_change_change_nothing():
    base = nn.Embedding(V, H)
    model = get_peft_model(
        nn.ModuleDict({"matrix": base}), TrainableTokensConfig(target_modules=["matrix"], token_indices=IDS)
    )
    use_row_lookup(model)
    x = torch.randint(V, (4, 30))
    (layer,) = token_row_layers(model)
    assert torch.equal(layer(x), base(x))


# Configurations


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "checkpoint"
    return create_tiny_checkpoint(folder, tie_word_embeddings=request.param, **SMALL), request.param


def load(path):
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


LORA = {"r": 2, "target_modules": ["q_proj"]}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("lora", [None, LORA, LORA | {"use_dora": True}], ids=["rows", "lora", "dora"])
def test_an_adapter_with_rows_is_saved_and_loaded_by_plain_peft(checkpoint, tmp_path, lora):
    path, tied = checkpoint
    ids = list(range(100, 120))
    model = load(path)
    given = None if lora is None else LoraConfig(**lora)
    config = with_token_rows(given, model, ids)
    assert given is None or given.trainable_token_indices is None  # a copy
    model = get_peft_model(model, config)
    use_row_lookup(model)
    check_token_rows(model, ids)
    trained = {name: value for name, value in model.named_parameters() if "trainable_tokens_delta" in name}
    assert len(trained) == (1 if tied else 2) and all(value.shape[0] == len(ids) for value in trained.values())
    for value in trained.values():
        nn.init.normal_(value)
    model.save_pretrained(tmp_path)

    again = PeftModel.from_pretrained(load(path), tmp_path)
    x = torch.tensor([[5, 100, 119, 7, 101]])
    with torch.no_grad():
        ours, theirs, plain = (each(input_ids=x).logits for each in (model, again, load(path)))
    assert torch.allclose(ours, theirs, atol=1e-5)
    changed = (ours - plain).abs().amax((0, 1)) > 1e-3
    assert changed[100:120].all()


def test_adapters_that_cannot_train_rows_are_refused(checkpoint):
    model = load(checkpoint[0])
    with pytest.raises(ValueError, match="coord_rows=True goes with LoRA, .*, not with LoHaConfig"):
        with_token_rows(peft.LoHaConfig(target_modules=["q_proj"]), model, IDS)
    other = LoraConfig(**LORA, trainable_token_indices={"embed_tokens": [1, 2]})
    with pytest.raises(ValueError, match="names other rows already"):
        with_token_rows(other, model, IDS)
    with pytest.raises(ValueError, match="the adapter has no rows of tokens"):
        check_token_rows(get_peft_model(load(checkpoint[0]), LoraConfig(**LORA)), IDS)
    adapted = get_peft_model(model, TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[1, 2]))
    with pytest.raises(ValueError, match="trains 2 other rows than those of the 4 coordinate tokens"):
        check_token_rows(adapted, IDS)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Merging: the logits of base and adapter, only what changes is written, and nothing half-written after a failure."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from coordexp_trl import cli
from coordexp_trl.adapters.merge import merge_adapter
from coordexp_trl.adapters.rows import with_token_rows
from coordexp_trl.tiny import create_tiny_checkpoint

SMALL = {"hidden_size": 64, "num_layers": 2, "vision_depth": 2}
IDS = list(range(700, 900))
LINEAR = ["q_proj", "v_proj", "down_proj", "qkv", "linear_fc1"]
PROBE = torch.tensor([[5, 700, 17, 899, 3, 750, 41]])


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": LINEAR, **options})


KINDS = {
    "lora": lambda model: lora(),
    "rslora": lambda model: lora(
        use_rslora=True, lora_alpha=7, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}
    ),
    "dora": lambda model: lora(use_dora=True),
    "rows": lambda model: with_token_rows(None, model, IDS),
    "lora and rows": lambda model: with_token_rows(lora(), model, IDS),
    "dora and rows": lambda model: with_token_rows(lora(use_dora=True), model, IDS),
    "trainable tokens": lambda model: TrainableTokensConfig(token_indices=IDS),
    "rows of the head": lambda model: lora(trainable_token_indices={"lm_head": IDS}),
    "saved head": lambda model: lora(modules_to_save=["lm_head"]),
}
UNTIED_BY = {"rows of the head", "saved head"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict:
    """Tied and untied, in one file and in shards. Read only."""
    root, found = tmp_path_factory.mktemp("bases"), {}
    for tied in (True, False):
        single = Path(create_tiny_checkpoint(root / f"single_{tied}", tie_word_embeddings=tied, **SMALL))
        sharded = Path(shutil.copytree(single, root / f"sharded_{tied}"))
        (sharded / "model.safetensors").unlink()
        AutoModelForImageTextToText.from_pretrained(single).save_pretrained(sharded, max_shard_size="100KB")
        found |= {("single", tied): single, ("sharded", tied): sharded}
    return found


def save_adapter(base: Path, folder: Path, config) -> Path:
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, config(model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad:
                noise = 0.1 * torch.randn(value.shape, generator=generator)
                value.mul_(1 + noise) if "magnitude" in name else value.add_(noise)
    adapted.save_pretrained(folder)
    return folder


def contents(*folders: Path) -> dict[str, bytes]:
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=PROBE).logits


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_base_and_adapter(bases, tmp_path, kind, tied):
    layout = "sharded" if list(KINDS).index(kind) % 2 else "single"
    base = bases[layout, tied]
    adapter, out = save_adapter(base, tmp_path / "adapter", KINDS[kind]), tmp_path / "out"
    before = contents(base, adapter)
    report = merge_adapter(adapter, out)
    assert contents(base, adapter) == before

    plain = AutoModelForImageTextToText.from_pretrained(base)
    without = logits(plain)
    expected = logits(PeftModel.from_pretrained(plain, adapter))
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert (logits(model) - expected).abs().max() <= 1e-5 < 1e-2 < (without - expected).abs().max()

    untied = tied and kind in UNTIED_BY
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared is (tied and not untied) and report.untied is untied
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is shared
    old, new = tensors(base), tensors(out)
    assert new.keys() - old.keys() == ({"lm_head.weight"} if untied else set()) and not old.keys() - new.keys()
    assert report.changed == sum(name not in old or not torch.equal(new[name], old[name]) for name in new)
    for file in base.glob("*.safetensors"):  # what nothing changes is the same file
        assert file.samefile(out / file.name) is (file.name in report.linked) is (file.name not in report.written)
    assert (layout == "single") or report.linked
    assert len(AutoProcessor.from_pretrained(out).tokenizer) == len(AutoProcessor.from_pretrained(base).tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


@pytest.fixture
def adapter(bases, tmp_path) -> Path:
    return save_adapter(bases["sharded", True], tmp_path / "adapter", KINDS["lora and rows"])


def refused(adapter, message, **options):
    out = adapter.parent / "out"
    with pytest.raises(ValueError, match=message):
        merge_adapter(adapter, options.pop("out", out), **options)
    assert not out.exists() and not [path for path in adapter.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("options", [{"hidden_size": 32}, {"num_layers": 1}, {"num_layers": 3}, {"num_bins": 0}])
def test_another_base_is_refused(adapter, tmp_path, options):
    other = create_tiny_checkpoint(tmp_path / "other", **{**SMALL, **options})
    path = adapter / "adapter_config.json"  # its own base is not here to be compared
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "gone"}))
    refused(adapter, "adapter|base", base=other)


def test_a_missing_or_cut_shard_is_refused(adapter, bases, tmp_path):
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])):
        base = Path(shutil.copytree(bases["sharded", True], tmp_path / damage.__name__.strip("<>")))
        damage(sorted(base.glob("*.safetensors"))[3])
        refused(adapter, "missing|incomplete|damaged", base=base)


def test_a_cut_adapter_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(adapter, "adapter_model.safetensors|incomplete|damaged")


@pytest.mark.parametrize("drop", [True, False])
def test_every_tensor_of_the_adapter_has_one_place(adapter, drop):
    path = adapter / "adapter_model.safetensors"
    content = load_file(path)
    name = next(key for key in content if "q_proj.lora_A" in key)
    tensor = content.pop(name)
    save_file(content if drop else content | {name: tensor, name.replace("q_proj", "o_proj"): tensor.clone()}, path)
    refused(adapter, "q_proj" if drop else "o_proj")


def test_the_output_may_be_no_input(adapter, bases):
    refused(adapter, "itself", out=bases["sharded", True], overwrite=True)
    refused(adapter, "itself", out=adapter, overwrite=True)


@pytest.mark.parametrize("option", [{"bias": "lora_only"}, {"init_lora_weights": "pissa"}])
def test_kinds_that_cannot_be_merged_are_refused(adapter, option):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | option))
    refused(adapter, next(iter(option)))


def test_a_full_disk_leaves_nothing(adapter, bases, monkeypatch, capsys):
    out, write, count = adapter.parent / "out", os.pwrite, []

    def full(*args):
        count.append(1)
        if len(count) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    before = contents(bases["sharded", True], adapter)
    monkeypatch.setattr(os, "pwrite", full)
    assert cli.main(["merge", "--adapter", str(adapter), "--out", str(out)]) == 2
    assert "No space left" in capsys.readouterr().err and len(count) > 5
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]
    assert contents(bases["sharded", True], adapter) == before


def test_an_existing_output_is_replaced_on_demand_only(adapter):
    out = adapter.parent / "out"
    out.mkdir()
    (out / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="exists already"):
        merge_adapter(adapter, out)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        merge_adapter(adapter, out, overwrite=True)
    (out / "config.json").write_text("{}")
    merge_adapter(adapter, out, overwrite=True, verify=False)
    assert not (out / "notes.txt").exists() and (out / "model.safetensors.index.json").exists()

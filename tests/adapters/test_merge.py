# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Merging on disk: what PEFT computes, one complete folder or none, and nothing else changed."""

import errno
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from coordexp_trl.adapters import merge, merge_check, merge_weights
from coordexp_trl.adapters.merge import merge_adapter
from coordexp_trl.checkpoint_files import new_folder
from coordexp_trl.cli import main
from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.tiny import create_tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")

SMALL = {"hidden_size": 64, "num_layers": 2, "vision_depth": 2}
ROWS_ALONE = {"target_modules": "dummy-target-modules"}
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tied and an untied checkpoint, each in several shards."""
    folder = tmp_path_factory.mktemp("bases")
    made = {}
    for tied in (True, False):
        single = create_tiny_checkpoint(folder / f"single_{tied}", tie_word_embeddings=tied, **SMALL)
        made["single", tied], made["shards", tied] = single, folder / f"shards_{tied}"
        load(single).save_pretrained(made["shards", tied], max_shard_size="300KB")
        AutoProcessor.from_pretrained(single).save_pretrained(made["shards", tied])
    return made


@pytest.fixture
def base(checkpoints):
    return checkpoints["single", True]


@pytest.fixture(scope="module")
def ids(checkpoints):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["single", True])
    return CoordVocabulary.from_tokenizer(tokenizer).ids.tolist()[::50]


def load(folder, dtype=torch.float32):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()


def save_adapter(base, folder, config, seed: int = 0) -> Path:
    """An adapter of whose parameters all have moved."""
    model = get_peft_model(load(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (value for value in model.parameters() if value.requires_grad):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj", "qkv"]} | options)


@torch.no_grad()
def logits(model, folder, ids) -> torch.Tensor:
    """Logits of a picture's prompt and of the tokens whose rows are trained."""
    (prompt,) = PromptBuilder(AutoProcessor.from_pretrained(folder))([draw_shapes(0, 3, image_size=96)[0]])
    input_ids = torch.tensor([prompt.ids + ids])
    return model(
        input_ids=input_ids,
        mm_token_type_ids=(input_ids == model.config.image_token_id).int(),
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
    ).logits[0]


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def kinds(ids) -> dict:
    """Configurations of adapters, of each whether a tied head stays so, and whether the head changes by itself."""
    rows = {"trainable_token_indices": {"embed_tokens": ids}}
    return {
        "lora": (lora(), True),
        "patterns": (
            lora(use_rslora=True, rank_pattern={"q_proj": 4}, alpha_pattern={r"layers\.1\.mlp\.down_proj": 3}),
            True,
        ),
        "dora": (lora(use_dora=True), True),
        "rows": (LoraConfig(**ROWS_ALONE, **rows), True),
        "lora_rows": (lora(**rows), True),
        "dora_rows": (lora(**rows, use_dora=True), True),
        "tokens": (TrainableTokensConfig(token_indices=ids), True),
        "saved_head": (lora(modules_to_save=["lm_head"]), False),
        "saved_embedding": (lora(modules_to_save=["embed_tokens"]), False),
        "saved_both": (lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True), True),
        "saved_projector": (lora(modules_to_save=["merger"]), True),
        "head_rows": (LoraConfig(**ROWS_ALONE, trainable_token_indices={"lm_head": ids}), False),
        "other_head_rows": (
            LoraConfig(**ROWS_ALONE, trainable_token_indices={"embed_tokens": ids, "lm_head": ids[:5]}),
            False,
        ),
        "lora_head": (lora(target_modules=["q_proj", "lm_head"]), False),
        "lora_embedding": (lora(target_modules=["q_proj", "embed_tokens"]), False),
        "convolution": (lora(target_modules=["patch_embed.proj"]), True),
        "convolution_dora": (lora(target_modules=["patch_embed.proj"], use_dora=True), True),
    }


def rows_of_both(ids, **options):
    return {"trainable_token_indices": {"embed_tokens": ids, "lm_head": ids}} | options


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", kinds([0]))
def test_merged_is_base_and_adapter(checkpoints, tmp_path, ids, kind, tied):
    base = checkpoints["shards", tied]
    config, stays_tied = kinds(ids)[kind]
    adapter = save_adapter(base, tmp_path / "adapter", config)
    before = files_of(base), files_of(adapter)
    report = merge_adapter(adapter, tmp_path / "out", verify=False)

    adapted, merged = PeftModel.from_pretrained(load(base), adapter), load(tmp_path / "out")
    expected = logits(adapted, base, ids)
    scale = 10 if "convolution_dora" in kind else 1  # sums of 1536 pixels
    assert (logits(merged, base, ids) - expected).abs().max() <= 1e-5 * scale
    assert (logits(load(base), base, ids) - expected).abs().max() > 0.1
    # What PEFT makes of the weights in memory
    if not (tied and not stays_tied):  # there it gives head and embedding the same changes
        theirs, ours = adapted.merge_and_unload().state_dict(), merged.state_dict()
        for name, value in theirs.items():
            assert torch.allclose(ours[name], value, atol=1e-6), name

    head_is_embedding = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert head_is_embedding is report.tied is (tied and stays_tied)
    assert report.untied is (tied and not stays_tied)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is report.tied
    assert (HEAD in tensors_of(tmp_path / "out")) is not report.tied
    assert (files_of(base), files_of(adapter)) == before
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "out"}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_rows_of_head_and_embedding(checkpoints, tmp_path, ids, tied):
    """A tied head follows the rows of the embedding, one of its own has rows of its own."""
    base = checkpoints["single", tied]
    adapter = save_adapter(base, tmp_path / "adapter", lora(**rows_of_both(ids)))
    report = merge_adapter(adapter, tmp_path / "out")
    assert report.tied is tied and not report.untied
    assert report.difference.largest <= 1e-5 and report.difference.effect > 0.1
    old, new = tensors_of(base), tensors_of(tmp_path / "out")
    stored = load_file(adapter / "adapter_model.safetensors")
    for name in [EMBEDDING] + [HEAD] * (not tied):
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        assert torch.equal(new[name][ids], stored[f"{prefix}.token_adapter.trainable_tokens_delta"])
        others = [k for k in range(len(old[name])) if k not in ids]
        assert torch.equal(new[name][others], old[name][others])


def test_only_what_changes_is_written(checkpoints, tmp_path, ids):
    base = checkpoints["shards", False]
    adapter = save_adapter(base, tmp_path / "adapter", lora(target_modules=r".*language_model\.layers\.1\..*q_proj"))
    report = merge_adapter(adapter, tmp_path / "out", verify=False)
    out, places = tmp_path / "out", json.loads((base / INDEX).read_text())["weight_map"]
    name = "model.language_model.layers.1.self_attn.q_proj.weight"
    assert report.written == (places[name],) and report.changed == 1 and not report.copied
    assert set(report.linked) == set(places.values()) - {places[name]} and len(report.linked) >= 3
    for file in report.linked:
        assert (base / file).samefile(out / file)
    assert not (base / places[name]).samefile(out / places[name])
    old, new = tensors_of(base), tensors_of(out)
    assert old.keys() == new.keys()
    assert [key for key in old if not torch.equal(old[key], new[key])] == [name]
    assert files_of(out).keys() == files_of(base).keys()
    others = {file for file in files_of(base) if not file.endswith(".safetensors")}
    assert all(files_of(out)[file] == files_of(base)[file] for file in others)
    assert (out / places[name]).stat().st_mode == (base / places[name]).stat().st_mode


def test_an_untied_head_goes_into_the_index(checkpoints, tmp_path):
    base = checkpoints["shards", True]
    adapter = save_adapter(base, tmp_path / "adapter", lora(modules_to_save=["lm_head"]))
    merge_adapter(adapter, tmp_path / "out", verify=False)
    before, after = (json.loads((folder / INDEX).read_text()) for folder in (base, tmp_path / "out"))
    new = tensors_of(tmp_path / "out")
    assert after["weight_map"] == before["weight_map"] | {HEAD: before["weight_map"][EMBEDDING]}
    assert after["metadata"]["total_size"] == sum(value.nbytes for value in new.values())
    assert after["metadata"]["total_parameters"] == sum(value.numel() for value in new.values())
    assert torch.equal(new[EMBEDDING], tensors_of(base)[EMBEDDING])


def test_links_fail_on_other_file_systems(checkpoints, tmp_path, monkeypatch):
    base = checkpoints["shards", False]
    adapter = save_adapter(base, tmp_path / "adapter", lora(target_modules=r".*layers\.1\..*q_proj"))

    def link(*args, **options):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    report = merge_adapter(adapter, tmp_path / "out", verify=False)
    assert not report.linked and len(report.copied) >= 3
    for file in report.copied:
        assert (tmp_path / "out" / file).read_bytes() == (base / file).read_bytes()
        assert not (tmp_path / "out" / file).samefile(base / file)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_once(base, tmp_path, ids, dtype):
    """Sums are of float32, whatever the base is stored in; the result has its type."""
    low = tmp_path / "low"
    shutil.copytree(base, low)
    load(base, dtype).save_pretrained(low)
    adapter = save_adapter(low, tmp_path / "adapter", lora(trainable_token_indices={"embed_tokens": ids}))
    report = merge_adapter(adapter, tmp_path / "out")
    assert report.difference.dtype is dtype and 0 < report.difference.largest < report.difference.bound
    merged = PeftModel.from_pretrained(load(low), adapter).merge_and_unload().state_dict()
    new = tensors_of(tmp_path / "out")
    assert {value.dtype for value in new.values()} == {dtype}
    for name, value in new.items():
        # A unit in the last place where another order of sums rounds the other way
        assert torch.allclose(value.float(), merged[name].to(dtype).float(), rtol=2**-7, atol=1e-6), name
        assert (value == merged[name].to(dtype)).float().mean() > 0.999, name


def test_blocks_and_pieces_make_no_difference(checkpoints, tmp_path, ids, monkeypatch):
    base = checkpoints["single", False]
    adapter = save_adapter(base, tmp_path / "adapter", lora(use_dora=True, **rows_of_both(ids)))
    merge_adapter(adapter, tmp_path / "whole", verify=False)
    monkeypatch.setattr(merge_weights, "_BLOCK", 200)
    monkeypatch.setattr(merge_weights, "_PIECE", 1100)
    threads = torch.get_num_threads()
    merge_adapter(adapter, tmp_path / "parts", verify=False)
    assert torch.get_num_threads() == threads
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-7) for name in whole)
    assert whole.keys() == parts.keys()


def test_the_command(checkpoints, tmp_path, ids, capsys):
    base = checkpoints["single", True]
    adapter = save_adapter(base, tmp_path / "adapter", lora(modules_to_save=["lm_head"]))
    out = tmp_path / "out"
    assert main(["merge", "--adapter", str(adapter), "--out", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tied in the base: the adapter changes head and embedding differently" in text
    assert re.search(r"logits differ by \S+ at most \(allowed \S+, float32", text) and f"wrote {out}" in text
    assert AutoProcessor.from_pretrained(out).tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    assert main(["merge", "--adapter", str(adapter), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    renamed = shutil.copytree(base, tmp_path / "renamed")
    options = ["--base", str(renamed), "--overwrite", "--no-verify"]
    assert main(["merge", "--adapter", str(adapter), "--out", str(out), *options]) == 0
    said = capsys.readouterr()
    assert f"warning: the adapter was made for {base}" in said.err and "logits" not in said.out


# Nothing half-written


@pytest.fixture
def adapter(base, tmp_path, ids):
    return save_adapter(base, tmp_path / "adapter", lora(trainable_token_indices={"embed_tokens": ids}))


def forget_base(adapter: Path) -> None:
    """The base that the adapter names is gone, so that only the adapter itself can tell whether another one fits."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "gone"}))


@contextmanager
def nothing_changes(folder: Path, *others: Path):
    folders = (folder, *others)
    before = [files_of(each) for each in folders]
    yield
    assert [files_of(each) for each in folders] == before


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_full_disk(base, adapter, tmp_path, monkeypatch, overwrite):
    if overwrite:
        merge_adapter(adapter, tmp_path / "out", verify=False)
    written = []

    def pwrite(descriptor, data, offset):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(data))
        return real(descriptor, data, offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    with nothing_changes(tmp_path, base), pytest.raises(OSError, match="No space left"):
        merge_adapter(adapter, tmp_path / "out", overwrite=overwrite, verify=False)
    assert len(written) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"} | ({"out"} if overwrite else set())


def test_a_wrong_result_is_refused(base, adapter, tmp_path, monkeypatch):
    real = merge_weights.Writer._low_rank

    def forgets_the_scaling(writer, change):
        return real(writer, merge_weights.Lora(change.down, change.up, 0.5 * change.scaling))

    monkeypatch.setattr(merge_weights.Writer, "_low_rank", forgets_the_scaling)
    with nothing_changes(tmp_path, base), pytest.raises(ValueError, match="is not what base and adapter are together"):
        merge_adapter(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_model_at_a_time(base, adapter, tmp_path, monkeypatch):
    import gc
    import weakref

    loaded, real = [], merge_check._load

    def load_one(folder):
        assert all(model() is None for model in loaded)
        model = real(folder)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(merge_check, "_load", load_one)
    gc.collect()
    merge_adapter(adapter, tmp_path / "out")
    assert len(loaded) == 2


def test_leftovers_of_killed_runs_are_removed(base, adapter, tmp_path):
    out = tmp_path / "out"
    killed, mine = tmp_path / ".out-abcd_123.partial", tmp_path / ".out-mine"
    (killed / "checkpoint").mkdir(parents=True)
    (killed / "checkpoint" / "half").write_text("half")
    mine.mkdir()
    with new_folder(out) as running:  # another one that goes on
        running.mkdir()
        merge_adapter(adapter, tmp_path / "out2", verify=False)
        assert killed.exists()  # not of this destination
        merge_adapter(adapter, out, verify=False)
        assert not killed.exists() and mine.exists() and running.exists()
        shutil.rmtree(out)
    # Killed between moving the old folder away and moving the new one in: the old one returns, and is in the way
    (killed / "old").mkdir(parents=True)
    (killed / "old" / "config.json").write_text("{}")
    shutil.rmtree(out)
    with pytest.raises(ValueError, match="exists already"):
        merge_adapter(adapter, out, verify=False)
    assert (out / "config.json").read_text() == "{}" and not killed.exists()


# Bad input


def refused(message: str, adapter, out, *inputs, **options):
    with nothing_changes(out.parent, *inputs), pytest.raises(ValueError, match=message):
        merge_adapter(adapter, out, **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 128}, "has shape .*, and the base needs .*Use the base that it was trained on"),
        ({"num_layers": 1}, r"the base has no module for .*layers\.1\."),
        ({"num_layers": 3}, r"it lacks \d+ tensors .*layers\.2\."),
    ],
)
def test_an_adapter_of_another_base(adapter, tmp_path, other, message):
    base = create_tiny_checkpoint(tmp_path / "other", tie_word_embeddings=True, **SMALL | other)
    refused("the adapter was trained on .* differs there", adapter, tmp_path / "out", base=base)
    forget_base(adapter)
    refused(message, adapter, tmp_path / "out", base=base)


def test_a_base_without_the_coordinate_tokens(base, adapter, tmp_path, ids):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0, **SMALL)
    forget_base(adapter)
    refused(rf"trains the row of token {max(ids)}.*expand-vocab", adapter, tmp_path / "out", base=plain)
    AutoTokenizer.from_pretrained(base).save_pretrained(plain)  # with rows for its new tokens missing
    refused(rf"trains row {max(ids)} of {EMBEDDING}, and the base has \d+ rows", adapter, tmp_path / "out", base=plain)


def test_another_vocabulary(base, adapter, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(adapter)
    merge_adapter(adapter, tmp_path / "out", verify=False)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(adapter)
    refused(r"its tokenizer has (\d+) tokens, that of the base", adapter, tmp_path / "out2", base)


@pytest.mark.parametrize("damage", ["missing", "truncated", "index"])
def test_a_damaged_base(checkpoints, tmp_path, damage):
    base = Path(shutil.copytree(checkpoints["shards", True], tmp_path / "base"))
    adapter = save_adapter(base, tmp_path / "adapter", lora())
    shard = base / sorted(set(json.loads((base / INDEX).read_text())["weight_map"].values()))[1]
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 10)
    else:
        index = json.loads((base / INDEX).read_text())
        index["weight_map"]["model.more.weight"] = shard.name
        (base / INDEX).write_text(json.dumps(index))
    message = f"base = .*{shard.name} is missing or incomplete"
    refused(message, adapter, tmp_path / "out")


def test_a_damaged_adapter(base, adapter, tmp_path):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if "lora_A" in key)
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    refused(f"it lacks 1 tensors .*{re.escape(name)}", adapter, tmp_path / "out", base)
    save_file(tensors | {name.replace("lora_A", "lora_C"): torch.zeros(3)}, path)
    refused(r"the base has no module for .*lora_C", adapter, tmp_path / "out", base)
    save_file(tensors, path)
    os.truncate(path, path.stat().st_size - 10)
    refused("is incomplete or damaged", adapter, tmp_path / "out", base)
    path.unlink()
    refused("has no adapter_model.safetensors", adapter, tmp_path / "out", base)
    refused("is not an adapter folder", base, tmp_path / "out")


def test_unusable_places(base, adapter, tmp_path):
    refused("out = .*: is adapter itself", adapter, adapter, base, overwrite=True)
    refused("lies in the other", adapter, adapter / "merged", base)
    refused("lies in the other", adapter, tmp_path, base, overwrite=True)
    copy = shutil.copytree(base, tmp_path / "base")
    refused("out = .*: is base itself", adapter, copy, base=copy, overwrite=True)
    (tmp_path / "link").symlink_to("base")
    refused("out = .*: is base itself", adapter, tmp_path / "link", base=copy, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    refused("is not a checkpoint .*--overwrite does not replace it", adapter, tmp_path / "mine", base, overwrite=True)
    refused("base = .*is not a folder.*hf download", adapter, tmp_path / "out", base="Org/model")
    refused("base = .*is an adapter itself", adapter, tmp_path / "out", base=adapter)
    config = adapter / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"base_model_name_or_path": "Org/model"}))
    refused("names 'Org/model', which is not a folder here.*--base", adapter, tmp_path / "out")
    config.write_text(json.dumps(content | {"base_model_name_or_path": None}))
    refused("base_model_name_or_path = None", adapter, tmp_path / "out")
    merge_adapter(adapter, tmp_path / "out", base=base, verify=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lora(init_lora_weights="pissa"), "init_lora_weights='pissa', which changes the base"),
        (lora(init_lora_weights="olora"), "init_lora_weights='olora', which changes the base"),
        (lora(bias="all"), "bias='all'"),
        (lora(lora_bias=True), "lora_bias=True"),
        (lora(target_modules=["embed_tokens"], use_dora=True), "DoraEmbedding of .*embed_tokens is not supported"),
        (peft.LoHaConfig(target_modules=["q_proj"]), "is of type LOHA"),
        (peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "is of type PROMPT_TUNING"),
        (lora(modules_to_save=["lm_head"], trainable_token_indices={"embed_tokens": [1]}), "PEFT does not compute"),
    ],
)
def test_adapters_of_other_kinds(base, tmp_path, config, message):
    adapter = tmp_path / "adapter"
    get_peft_model(load(base), config).save_pretrained(adapter)
    refused(message, adapter, tmp_path / "out", base)


def test_a_quantised_base(base, adapter, tmp_path):
    quantised = Path(shutil.copytree(base, tmp_path / "quantised"))
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    refused("base: it is quantised", adapter, tmp_path / "out", base=quantised)
    del config["quantization_config"]
    (quantised / "config.json").write_text(json.dumps(config))
    path = quantised / "model.safetensors"
    tensors = load_file(path)
    forget_base(adapter)
    save_file({key: value.to(torch.int8) if "down_proj" in key else value for key, value in tensors.items()}, path)
    refused(r"down_proj.*is of type I8, which cannot be merged into", adapter, tmp_path / "out", base=quantised)


def test_a_base_without_processor_needs_no_verify(base, adapter, tmp_path):
    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        (bare / name).unlink(missing_ok=True)
    refused("makes no prompt to compare the models with .*--no-verify", adapter, tmp_path / "out", base=bare)
    assert merge.merge_adapter(adapter, tmp_path / "out", base=bare, verify=False).difference is None

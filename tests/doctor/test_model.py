# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the doctor finds in checkpoints: a sound one, and one damage after another."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoTokenizer

from coordexp_trl.coordinates import COORD_TOKEN
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.model import STEPS, check_model
from coordexp_trl.doctor.model_rows import judge_rows
from coordexp_trl.tiny import build_tiny_tokenizer, create_tiny_checkpoint, detector_path
from coordexp_trl.vocabulary import expand_vocabulary

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING = "model.language_model.embed_tokens.weight"
NORM = "model.language_model.norm.weight"


def examined(folder, by_name):
    return by_name(check_model(Checkpoint(folder)))


def problems(checks) -> dict[str, str]:
    return {check.name: check.status for check in checks.values() if check.status != "ok"}


def test_sound_checkpoints(tiny_checkpoint, tmp_path, by_name):
    create_tiny_checkpoint(tmp_path / "plain", num_bins=0, hidden_size=32, num_layers=1, vision_depth=2)
    expand_vocabulary(tmp_path / "plain", tmp_path / "expanded")
    create_tiny_checkpoint(tmp_path / "untied", tie_word_embeddings=False)
    for folder in (tiny_checkpoint, detector_path(), tmp_path / "expanded", tmp_path / "untied"):
        checks = examined(folder, by_name)
        assert problems(checks) == {}
        assert set(checks) == {step.name for step in STEPS}
    assert checks["model.tied"].message == "a head of its own"
    assert checks["model.rows"].message == "tokenizer 1413, embedding 1413, head 1413, config 1413"
    assert checks["model.coordinates"].message == "1000 bins, ids 413 to 1412, <|coord_*|> 412, consecutive"


def test_shards(copy, by_name):
    model = AutoModelForImageTextToText.from_pretrained(copy)
    (copy / WEIGHTS).unlink()
    model.save_pretrained(copy, max_shard_size="400KB")
    checks = examined(copy, by_name)
    assert problems(checks) == {} and "files, " in checks["model.weights"].message

    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[:-1])
    shards[1].unlink()
    checks = examined(copy, by_name)
    message = checks["model.weights"].message
    assert f"{shards[0].name} is incomplete" in message and f"{shards[1].name} is missing" in message
    assert problems(checks) == {"model.weights": "fail", "model.skipped": "warn"}
    assert checks["model.skipped"].message == (
        "not checked: model.structure, model.dtype, model.rows, model.tied, model.coordinate_rows"
    )

    shards[0].write_bytes(content)
    shutil.copy(shards[0], shards[1])  # whole, but with the tensors of another shard
    assert f"{shards[1].name} lacks" in examined(copy, by_name)["model.weights"].message
    (copy / INDEX).write_text("{")
    assert f"{INDEX} is damaged" in examined(copy, by_name)["model.weights"].message


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_config(folder, **text_values):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text_values
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def without(*names):
    def remove(folder):
        for name in names:
            (folder / name).unlink()

    return remove


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def tensors(**change):
    """Puts other tensors in the place of some; `None` removes them."""

    def edit(stored):
        for name, value in change.items():
            stored.pop(name, None)
            if value is not None:
                stored[name] = value

    return lambda folder: edit_tensors(folder, edit)


def fill_rows(value):
    """Fills the rows of two coordinate tokens."""

    def edit(stored):
        stored[EMBEDDING][-2:] = value

    return lambda folder: edit_tensors(folder, edit)


def scale_rows(factor):
    def edit(stored):
        stored[EMBEDDING][-1000:] *= factor

    return lambda folder: edit_tensors(folder, edit)


def other_tokens(order):
    """A tokenizer whose coordinate tokens lie in another order, or are incomplete."""

    def replace(folder):
        tokenizer = build_tiny_tokenizer(num_bins=0)
        names = [COORD_TOKEN.format(k) for k in order]
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names])
        tokenizer.save_pretrained(folder)
        shutil.rmtree(folder / "unused", ignore_errors=True)

    return replace


def longer_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(folder)


def edit_processor(folder, **values):
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= values
    path.write_text(json.dumps(content))


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def both_ties(value):
    def edit(folder):
        edit_json(folder / "config.json", tie_word_embeddings=value)
        edit_config(folder, tie_word_embeddings=value)

    return edit


# The damage, the check that finds it, its status, what the message holds, and what the remedy holds.
DAMAGES = {
    "no config": (without("config.json"), "model.folder", "fail", "no config.json", "Download"),
    "bad config": (
        lambda f: (f / "config.json").write_text("{"),
        "model.config",
        "fail",
        "cannot be read",
        "Download",
    ),
    "text model": (
        lambda f: edit_json(f / "config.json", model_type="qwen3"),
        "model.config",
        "fail",
        "'qwen3' is not a vision-language model",
        "qwen3_vl",
    ),
    "other family": (
        lambda f: edit_json(f / "config.json", model_type="llava"),
        "model.config",
        "fail",
        "'llava' has another layout",
        "qwen3_vl",
    ),
    "no weights": (without(WEIGHTS), "model.weights", "fail", "no model.safetensors", "Download"),
    "pickled": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        "model.weights",
        "fail",
        ".bin or .pth files only",
        "save_pretrained",
    ),
    "cut weights": (cut, "model.weights", "fail", "model.safetensors is incomplete or damaged", "Download"),
    "missing tensor": (tensors(**{NORM: None}), "model.structure", "fail", f"1 tensors are missing: {NORM}", "Downl"),
    "other shape": (
        tensors(**{NORM: torch.ones(7)}),
        "model.structure",
        "fail",
        f"{NORM} is (7,), not",
        "do not belong together",
    ),
    "extra tensor": (tensors(junk=torch.ones(7)), "model.structure", "warn", "1 tensors have no place", "ignores"),
    "mixed types": (
        tensors(**{NORM: torch.ones(128, dtype=torch.bfloat16)}),
        "model.dtype",
        "warn",
        "bfloat16 (1)",
        "one type",
    ),
    "quantised": (tensors(**{NORM: torch.ones(128, dtype=torch.int8)}), "model.dtype", "fail", "I8 (1)", "original"),
    "declared type": (
        lambda f: edit_json(f / "config.json", dtype="float16"),
        "model.dtype",
        "warn",
        "config.json says float16",
        "Set dtype",
    ),
    "no tokenizer": (without("tokenizer.json"), "model.tokenizer", "fail", "tokenizer.json", "Download"),
    "cut tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "model.tokenizer",
        "fail",
        "does not load",
        "Download",
    ),
    "no coordinate tokens": (
        other_tokens([]),
        "model.coordinates",
        "fail",
        "has no coordinate token, need 1000",
        "coordexp expand-vocab --src",
    ),
    "some coordinate tokens": (
        other_tokens([k for k in range(1000) if k != 7]),
        "model.coordinates",
        "fail",
        "999 coordinate tokens, without <|coord_7|>",
        "checkpoint without coordinate tokens",
    ),
    "too many coordinate tokens": (
        other_tokens(range(1001)),
        "model.coordinates",
        "fail",
        "1001 coordinate tokens, up to <|coord_1000|>",
        "checkpoint without coordinate tokens",
    ),
    "shuffled ids": (
        other_tokens([*range(500, 1000), *range(500)]),
        "model.coordinates",
        "warn",
        "not consecutive",
        "expand-vocab",
    ),
    "longer tokenizer": (longer_tokenizer, "model.rows", "fail", "1 tokens have no row", "expand-vocab"),
    "wrong vocab_size": (
        lambda f: edit_config(f, vocab_size=1500),
        "model.rows",
        "fail",
        "embedding 1413, head tied, config 1500: they must be equal",
        "Set vocab_size",
    ),
    "tied without need": (
        tensors(**{"lm_head.weight": torch.randn(1413, 128)}),
        "model.tied",
        "warn",
        "a head that differs from the embedding is stored",
        "Set tie_word_embeddings to false",
    ),
    "no head": (both_ties(False), "model.tied", "fail", "no head is stored", "Set tie_word_embeddings to true"),
    "flags": (
        lambda f: edit_config(f, tie_word_embeddings=False),
        "model.tied",
        "warn",
        "its text_config False",
        "Set both to True",
    ),
    "not a number": (fill_rows(torch.nan), "model.coordinate_rows", "fail", "2 rows are not finite", "checkpoint"),
    "equal rows": (fill_rows(1.0), "model.coordinate_rows", "warn", "only 999 of 1000 rows differ", "expand-vocab"),
    "tiny rows": (scale_rows(1e-4), "model.coordinate_rows", "warn", "far apart", "learn badly"),
    "huge rows": (scale_rows(1e4), "model.coordinate_rows", "warn", "far apart", "learn badly"),
    "no processor": (without("processor_config.json"), "model.processor", "fail", "does not load", "save_pretrained"),
    "no chat template": (without("chat_template.jinja"), "model.processor", "fail", "no chat template", "original"),
    "image id": (
        lambda f: edit_json(f / "config.json", image_token_id=3),
        "model.special_tokens",
        "fail",
        "image_token_id is 3 in config.json",
        "same checkpoint",
    ),
    "end token": (
        lambda f: edit_json(f / "generation_config.json", eos_token_id=[3]),
        "model.special_tokens",
        "warn",
        "eos_token_id is [3] in generation_config.json",
        "write the tokenizer's ids",
    ),
    "padding": (
        lambda f: edit_json(f / "generation_config.json", pad_token_id=3),
        "model.special_tokens",
        "warn",
        "pad_token_id is 3",
        "write the tokenizer's ids",
    ),
    "template without image": (
        template("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"),
        "model.chat_template",
        "fail",
        "holds 0 image placeholders",
        "original",
    ),
    "patch size": (
        lambda f: edit_processor(f, patch_size=8),
        "model.image_size",
        "fail",
        "patch_size is 8, the model's 16",
        "original",
    ),
    "huge images": (
        lambda f: edit_processor(f, size={"shortest_edge": 1024, "longest_edge": 1 << 24}),
        "model.image_size",
        "warn",
        "16384 tokens, the context is 4096",
        "max_pixels",
    ),
    "penalty": (
        lambda f: edit_json(f / "generation_config.json", repetition_penalty=1.05),
        "model.generation",
        "warn",
        "repetition_penalty = 1.05",
        "--generation-config vllm",
    ),
    "sampling": (
        lambda f: edit_json(f / "generation_config.json", do_sample=True, temperature=0.7, top_k=20),
        "model.generation",
        "warn",
        "do_sample, temperature = 0.7, top_k = 20",
        "do_sample=False",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damages(copy, by_name, damage):
    spoil, name, status, message, remedy = DAMAGES[damage]
    spoil(copy)
    checks = examined(copy, by_name)
    found = checks[name]
    assert found.status == status and message in found.message and remedy in found.remedy
    assert not any("stopped with" in check.message for check in checks.values())
    if status == "warn":
        assert problems(checks) == {name: "warn"}


def test_folders(tmp_path, by_name):
    checks = examined(tmp_path / "absent", by_name)
    assert checks["model.folder"].status == "fail" and "hf download" in checks["model.folder"].remedy
    assert set(checks) == {"model.folder", "model.skipped"}
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--adapter" in examined(tmp_path, by_name)["model.folder"].remedy


def test_no_weight_is_read(tiny_checkpoint, by_name, monkeypatch):
    """The size of a model must not matter: rows are read by slices, and nothing else is."""
    from coordexp_trl.doctor.safetensors_files import StoredTensor

    read, rows = [], StoredTensor.rows
    monkeypatch.setattr(StoredTensor, "rows", lambda self, indices: read.append(self.name) or rows(self, indices))
    checkpoint = Checkpoint(tiny_checkpoint)
    assert problems(by_name(check_model(checkpoint))) == {}
    assert read == [EMBEDDING, EMBEDDING]  # of coordinate tokens, and of others
    assert {parameter.device.type for parameter in checkpoint.structure.model.parameters()} == {"meta"}


def test_rows_in_any_order_are_read(tiny_checkpoint):
    checkpoint = Checkpoint(tiny_checkpoint)
    matrix = load_file(tiny_checkpoint / WEIGHTS)[EMBEDDING]
    indices = [5, 6, 7, 3, 9, 1412]
    assert torch.equal(checkpoint.stored(EMBEDDING).rows(indices), matrix[indices].float())
    assert checkpoint.stored("some.prefix.embed_tokens.weight").name == EMBEDDING
    assert checkpoint.stored("some.prefix.absent.weight") is None


def test_fresh_rows_are_accepted():
    others = torch.randn(500, 64)
    fresh = others.mean(0) + 0.1 * others.std(0) * torch.randn(1000, 64)
    assert judge_rows("embedding", fresh, others).status == "ok"
    assert judge_rows("embedding", torch.zeros(1000, 64), others).status == "warn"

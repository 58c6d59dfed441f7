# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Coordinate tokens for a checkpoint on disk: exact ids and rows, everything else as it was, all or nothing."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from coordexp_trl import vocabulary
from coordexp_trl.coordinates import COORD_TOKEN, WILDCARD_TOKEN, CoordVocabulary
from coordexp_trl.tiny import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    build_tiny_config,
    build_tiny_model,
    build_tiny_processor,
    build_tiny_tokenizer,
)
from coordexp_trl.vocabulary import expand_vocabulary

BINS = 20  # few, where their number does not matter
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
TEXTS = [
    "red circle",
    "<|im_start|>user\nDetect <|image_pad|>!<|im_end|>",
    "naïve 日本 \t\n x",
    "coord_5 <|coord_ 5|>",
]


def write_checkpoint(path, tied=True, padding=0, dtype=torch.float32, tokenizer=None, **save_options) -> Path:
    """A tiny checkpoint without coordinate tokens, with `padding` conspicuous rows that belong to no token."""
    tokenizer = tokenizer or build_tiny_tokenizer(num_bins=0)
    config = build_tiny_config(tokenizer, hidden_size=32, num_layers=1, vision_depth=2, tie_word_embeddings=tied)
    config.text_config.vocab_size = len(tokenizer) + padding
    model = build_tiny_model(config, tokenizer).to(dtype)
    with torch.no_grad():
        for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
            matrix.weight[len(tokenizer) :] = 1000.0
    model.save_pretrained(path, **save_options)
    build_tiny_processor(tokenizer).save_pretrained(path)
    return path


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def weight_map(folder: Path) -> dict[str, str]:
    if (folder / INDEX).exists():
        return json.loads((folder / INDEX).read_text())["weight_map"]
    return dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")


def edit_config(folder: Path, vocab_size: int | None) -> None:
    """Changes the vocabulary size of the text model, or leaves it out."""
    content = json.loads((folder / "config.json").read_text())
    content["text_config"].pop("vocab_size")
    if vocab_size is not None:
        content["text_config"]["vocab_size"] = vocab_size
    (folder / "config.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A tied checkpoint in one file. Read only."""
    folder = write_checkpoint(tmp_path_factory.mktemp("source") / "tied")
    (folder / "model.safetensors").chmod(0o640)  # not what safetensors makes
    return folder


@pytest.fixture
def copy(source, tmp_path) -> Path:
    """A copy of `source` to damage."""
    return Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expanded(source, tmp_path_factory) -> Path:
    """`source` with all 1001 tokens. Read only."""
    folder = tmp_path_factory.mktemp("expanded") / "nested" / "tied"
    assert expand_vocabulary(source, folder).written
    return folder


def test_ids_on_a_tokenizer_as_long_as_that_of_qwen(tmp_path):
    learnt = json.loads(build_tiny_tokenizer(num_bins=0).backend_tokenizer.to_str())["model"]
    vocab = learnt["vocab"] | {f"filler {k}": k for k in range(len(learnt["vocab"]), 151643)}
    tokenizer = Qwen2TokenizerFast(
        vocab=vocab, merges=[tuple(m) for m in learnt["merges"]], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS + [f"<|{k}|>" for k in range(19)]})
    assert len(tokenizer) == 151669
    src = write_checkpoint(tmp_path / "src", padding=151936 - 151669, tokenizer=tokenizer)
    # 151936 is the default of the model, and transformers may leave defaults out; some have a second one at the top.
    edit_config(src, vocab_size=None)
    edit_json(src / "config.json", vocab_size=151936)
    report = expand_vocabulary(src, tmp_path / "dst")
    assert report.vocabulary.wildcard_id == 151669
    assert report.vocabulary.ids.tolist() == list(range(151670, 152670))
    assert (report.rows_before, report.rows_after) == (151936, 152670)
    assert tensors_of(tmp_path / "dst")[EMBEDDING].shape == (152670, 32)
    config = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert config["vocab_size"] == config["text_config"]["vocab_size"] == 152670
    assert AutoTokenizer.from_pretrained(tmp_path / "dst")("<|coord_999|>").input_ids == [152669]


SHAPES = [
    # tied, padding rows, dtype, options of save_pretrained
    (True, 0, torch.float32, {}),
    (False, 0, torch.float32, {}),
    (True, BINS + 1, torch.float32, {}),  # the padding is just enough
    (False, 50, torch.bfloat16, {"max_shard_size": "30KB"}),  # more than enough
    (True, BINS, torch.bfloat16, {"max_shard_size": "30KB"}),  # one row is missing
    (False, 5, torch.float16, {"max_shard_size": "30KB"}),
]


@pytest.mark.parametrize(("tied", "padding", "dtype", "options"), SHAPES)
def test_matrices(tmp_path, tied, padding, dtype, options):
    src, dst = write_checkpoint(tmp_path / "src", tied, padding, dtype, **options), tmp_path / "dst"
    first, last = len(build_tiny_tokenizer(num_bins=0)), len(build_tiny_tokenizer(num_bins=0)) + BINS + 1
    rows = max(first + padding, last)
    with open(src / "config.json", "a") as file:
        file.write("  \n")  # not as transformers writes it
    report = expand_vocabulary(src, dst, BINS)
    assert (report.written, report.rows_before, report.rows_after, report.tied) == (True, first + padding, rows, tied)

    old, new = tensors_of(src), tensors_of(dst)
    matrices = {EMBEDDING} if tied else {EMBEDDING, HEAD}
    assert old.keys() == new.keys() and (HEAD in old) is not tied
    for name in old:
        assert new[name].dtype == old[name].dtype == dtype
        if name not in matrices:
            assert torch.equal(new[name], old[name]), name
    for name in matrices:
        assert new[name].shape == (rows, 32)
        assert torch.equal(new[name][:first], old[name][:first]) and torch.equal(new[name][last:], old[name][last:])
        added, present = new[name][first:last].double(), old[name][:first].double()
        noise = torch.randn(BINS + 1, 32, generator=torch.Generator().manual_seed(0))
        expected = present.mean(0) + 0.1 * present.std(0, correction=0) * noise
        torch.testing.assert_close(added, expected, atol=1e-6, rtol=torch.finfo(dtype).eps)
        assert len(added.unique(dim=0)) == BINS + 1  # distinct in any dtype

    files = weight_map(src)
    assert weight_map(dst) == files
    for file in set(files.values()) - {files[name] for name in matrices}:
        assert (dst / file).read_bytes() == (src / file).read_bytes()
    assert len(set(files.values())) > 3 or not options
    if options:
        metadata = json.loads((dst / INDEX).read_text())["metadata"]
        assert metadata["total_parameters"] == sum(tensor.numel() for tensor in new.values())
        assert metadata["total_size"] == sum(tensor.nbytes for tensor in new.values())

    config = json.loads((src / "config.json").read_text())
    assert AutoConfig.from_pretrained(dst).text_config.vocab_size == rows
    if rows == first + padding:
        assert (dst / "config.json").read_bytes() == (src / "config.json").read_bytes()
    config["text_config"]["vocab_size"] = rows
    assert json.loads((dst / "config.json").read_text()) == config

    model = AutoModelForImageTextToText.from_pretrained(dst)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (head is embedding) is tied and embedding.dtype == dtype
    assert torch.equal(embedding, new[EMBEDDING]) and torch.equal(head, new[EMBEDDING if tied else HEAD])


def test_it_writes_and_reads_coordinate_tokens(expanded):
    model, processor = (cls.from_pretrained(expanded) for cls in (AutoModelForImageTextToText, AutoProcessor))
    tokenizer = processor.tokenizer
    coords = CoordVocabulary.from_tokenizer(tokenizer)
    inputs = tokenizer("<|im_start|>cat<|coord_7|><|coord_999|>", return_tensors="pt")
    assert inputs.input_ids[0, -2:].tolist() == [int(coords.ids[7]), int(coords.ids[999])]
    others = sorted(set(range(len(tokenizer))) - set(coords.ids.tolist()))
    output = model.generate(**inputs, max_new_tokens=2, do_sample=False, suppress_tokens=others)
    assert all(coords.to_bin(int(token)) is not None for token in output[0, -2:])
    logits = model(**inputs).logits[0, -1]
    assert logits.shape == (len(tokenizer),) and logits.isfinite().all()
    # new tokens take the place that their number gives them, not more
    share = logits.softmax(0)[coords.ids].sum()
    assert 0.5 < share / (len(coords.ids) / len(tokenizer)) < 1.5


def test_tokenizer(source, expanded):
    before, after = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(expanded)
    for text in TEXTS:
        assert after(text).input_ids == before(text).input_ids
    for name in ("padding_side", "model_max_length", "chat_template", "eos_token", "pad_token", "all_special_tokens"):
        assert getattr(after, name) == getattr(before, name)
    ids = range(len(before), len(before) + 1001)
    assert {token_id: after.added_tokens_decoder[token_id] for token_id in before.added_tokens_decoder} == (
        before.added_tokens_decoder
    )
    for token_id, token in zip(ids, [WILDCARD_TOKEN, *map(COORD_TOKEN.format, range(1000))], strict=True):
        assert repr(after.added_tokens_decoder[token_id]) == repr(AddedToken(token, normalized=False, special=True))
    text = "a <|coord_0|>b<|coord_10|><|coord_999|> <|coord_1000|>"
    coords = [token_id for token_id in after(text).input_ids if token_id in ids]
    assert coords == [ids[1], ids[11], ids[1000]]
    assert after.decode(after(text).input_ids) == text
    assert after.decode(coords, skip_special_tokens=True) == ""


def test_other_files_are_copied(source, expanded):
    before, after = files_of(source), files_of(expanded)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    first, second = AutoProcessor.from_pretrained(source), AutoProcessor.from_pretrained(expanded)
    assert type(first) is type(second) and first.chat_template == second.chat_template == CHAT_TEMPLATE
    assert first.image_processor.to_dict() == second.image_processor.to_dict()
    weights, new_weights = source / "model.safetensors", expanded / "model.safetensors"
    assert new_weights.stat().st_mode == weights.stat().st_mode
    assert safe_open(new_weights, "pt").metadata() == safe_open(weights, "pt").metadata() == {"format": "pt"}


def test_what_does_not_fit_the_new_rows_is_left_out(copy, tmp_path):
    kept = ["README.md", "assets/logo.png", "additional_chat_templates/tool.jinja"]
    stale = ["optimizer.pt", "original/consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    hidden = [".cache/huggingface/x", ".gitattributes", "checkpoint-5/model.safetensors"]
    for name in kept + stale + hidden:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)
    report = expand_vocabulary(copy, tmp_path / "dst", BINS)
    assert report.left_out == tuple(stale)
    files = files_of(tmp_path / "dst")
    assert all(files[name].decode() == name for name in kept) and not files.keys() & {*stale, *hidden}


def test_two_runs_write_the_same_files(source, expanded, tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    expand_vocabulary(source, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    assert files_of(tmp_path / "again") == files_of(expanded)


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_copy_of_a_tied_head(copy, tmp_path, equal):
    tensors = load_file(copy / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING].clone() if equal else tensors[EMBEDDING] * 2
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert expand_vocabulary(copy, tmp_path / "dst", BINS).tied
    new = tensors_of(tmp_path / "dst")
    assert new[HEAD].shape == new[EMBEDDING].shape and torch.equal(new[HEAD], new[EMBEDDING]) is equal
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "dst")
    assert torch.equal(model.lm_head.weight, new[HEAD])


def test_a_checkpoint_of_an_earlier_release(tmp_path):
    """Other keys, a flat configuration, the chat template in JSON files, vocab.json and added_tokens.json."""
    src, dst, tokenizer = tmp_path / "src", tmp_path / "dst", build_tiny_tokenizer(num_bins=0)
    small = {"hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    text = {"vocab_size": 500, **small, **heads, **ends, "rope_parameters": rope}
    vision = {"depth": 1, **small, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [0]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(src)
    tensors = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in load_file(src / "model.safetensors").items()
    }
    assert "model.embed_tokens.weight" in tensors and "visual.blocks.0.norm1.weight" in tensors
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    flat = json.loads((src / "config.json").read_text())
    inner = {key: value for key, value in flat.pop("text_config").items() if key != "model_type"}
    del inner["rope_parameters"]
    inner |= {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    (src / "config.json").write_text(json.dumps(inner | flat))

    tokenizer.save_pretrained(src, save_jinja_files=False)
    backend = json.loads((src / "tokenizer.json").read_text())
    added = {token["content"]: token.pop("id") for token in backend["added_tokens"]}
    (src / "vocab.json").write_text(json.dumps(backend["model"]["vocab"]))
    (src / "merges.txt").write_text("\n".join(" ".join(merge) for merge in backend["model"]["merges"]))
    (src / "added_tokens.json").write_text(json.dumps(added))
    (src / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    decoder = {added[token["content"]]: token for token in backend["added_tokens"]}
    edit_json(src / "tokenizer_config.json", added_tokens_decoder=decoder)
    (src / "chat_template.json").write_text(json.dumps({"chat_template": "another " + CHAT_TEMPLATE}))
    Qwen2VLImageProcessor(patch_size=14).save_pretrained(src)

    assert expand_vocabulary(src, dst).rows_after == len(tokenizer) + 1001
    assert {"added_tokens.json", "special_tokens_map.json", "chat_template.jinja"} & files_of(dst).keys() == set()
    assert json.loads((dst / "config.json").read_text()) == inner | flat | {"vocab_size": len(tokenizer) + 1001}
    new = tensors_of(dst)
    assert new.keys() == tensors.keys()
    model, processor = (cls.from_pretrained(dst) for cls in (AutoModelForImageTextToText, AutoProcessor))
    assert torch.equal(model.get_input_embeddings().weight, new["model.embed_tokens.weight"])
    assert torch.equal(model.get_output_embeddings().weight, new["lm_head.weight"])
    assert processor.tokenizer.chat_template == CHAT_TEMPLATE
    assert processor.chat_template == "another " + CHAT_TEMPLATE
    before = AutoTokenizer.from_pretrained(src)
    assert all(processor.tokenizer(text).input_ids == before(text).input_ids for text in TEXTS)
    assert CoordVocabulary.from_tokenizer(processor.tokenizer).contiguous_start == len(tokenizer) + 1


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("present", [True, False])
def test_a_complete_source_is_left_alone(source, tmp_path, present, asked):
    src = tmp_path / "src"
    first = expand_vocabulary(source, src, BINS, wildcard=present)
    assert (first.vocabulary.wildcard_id is not None) is present
    assert first.rows_after == first.rows_before + BINS + present
    report = expand_vocabulary(src, tmp_path / "dst", BINS, wildcard=asked)
    assert not report.written and report.rows_before == report.rows_after == first.rows_after
    assert report.vocabulary.ids.tolist() == first.vocabulary.ids.tolist()
    assert report.vocabulary.wildcard_id == first.vocabulary.wildcard_id
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def save_tokenizer(folder: Path, tokens=(), entries=()) -> None:
    """Replaces the tokenizer by one with further added tokens and further ordinary `(entry, id)` of the vocabulary."""
    tokenizer = build_tiny_tokenizer(num_bins=0)
    if entries:
        learnt = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        merges = [tuple(merge) for merge in learnt["merges"]]
        start = len(learnt["vocab"])
        tokenizer = Qwen2TokenizerFast(
            vocab=learnt["vocab"] | {entry: start + k for entry, k in entries}, merges=merges, eos_token="<|im_end|>"
        )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    tokenizer.save_pretrained(folder)


def bins(*numbers) -> list[str]:
    return [COORD_TOKEN.format(k) for k in numbers]


def to_bin_format(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def rename_tensor(folder: Path, *new_names: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    matrix = tensors.pop(EMBEDDING)
    tensors |= {name: matrix.clone() for name in new_names}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# What is wrong with the source, and what the message holds.
BROKEN = [
    (lambda src: without(src, "config.json"), "is not a checkpoint, it has no config.json"),
    (lambda src: (src / "config.json").write_text("{"), "cannot read its config.json"),
    (lambda src: edit_json(src / "config.json", model_type="qwen3"), "model_type 'qwen3' is not a vision-language"),
    (lambda src: without(src, "tokenizer.json"), "has no tokenizer"),  # transformers would build an empty one
    (lambda src: cut(src / "tokenizer.json"), "cannot load its tokenizer"),
    (lambda src: without(src, "model.safetensors"), "has no weights.*save_pretrained"),
    (to_bin_format, r"pytorch_model\*\.bin only.*save it with save_pretrained"),
    (lambda src: cut(src / "model.safetensors"), "model.safetensors is missing or incomplete.*Download"),
    (lambda src: (src / "model.safetensors").rename(src / INDEX), f"{INDEX} is missing or incomplete"),
    (lambda src: edit_config(src, vocab_size=500), "embed_tokens.weight with vocab_size = 500 rows is not among"),
    (lambda src: rename_tensor(src, "wte.weight"), "embed_tokens.weight with vocab_size = 412 rows is not among"),
    # which one of the two?
    (lambda src: rename_tensor(src, "a.embed_tokens.weight", "b.embed_tokens.weight"), "embed_tokens.weight with"),
    (lambda src: edit_json(src / "config.json", tie_word_embeddings=False), "lm_head.weight with vocab_size = 412"),
    (lambda src: save_tokenizer(src, ["<|x|>"]), "ids up to 412, but its embedding only 412 rows"),
    (lambda src: save_tokenizer(src, entries=[("far", 5)]), "new tokens ids from 408, .* gaps and reach 410"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_broken_source_is_refused(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=f"(?s)src = {re.escape(repr(str(copy)))}.*{message}"):
        expand_vocabulary(copy, tmp_path / "dst", BINS)
    assert list(tmp_path.iterdir()) == [copy]


# Coordinate tokens of the source, ordinary entries of its vocabulary, and what the message holds.
PRESENT = [
    (bins(*range(10)), [], "num_bins = 20: .* of 10 bins already.*Use num_bins = 10"),
    (bins(*range(30)), [], "num_bins = 20: .* of 30 bins already.*Use num_bins = 30"),
    (
        bins(*range(19)) + bins(20),
        [],
        r"20 bins, without '<\|coord_19\|>'",
    ),  # the right number, but not the right ones
    (bins(*range(1, 20)), [], r"19 bins, without '<\|coord_0\|>'"),
    ([WILDCARD_TOKEN], [], r"0 bins, without '<\|coord_0\|>'"),
    ([], [(bins(3)[0], 0)], r"1 bins, without '<\|coord_0\|>'"),
    (
        [],
        [(token, k) for k, token in enumerate(bins(*range(20)))],
        "as ordinary entries.*each must be one added token",
    ),
]


@pytest.mark.parametrize(("tokens", "entries", "message"), PRESENT)
def test_other_coordinate_tokens_are_refused(tmp_path, tokens, entries, message):
    src = write_checkpoint(tmp_path / "src", padding=50)
    save_tokenizer(src, tokens, entries)
    with pytest.raises(ValueError, match=f"(?s){re.escape(repr(str(src)))}.*start from a checkpoint without") as error:
        expand_vocabulary(src, tmp_path / "dst", BINS)
    assert re.search(message, str(error.value), re.DOTALL)
    assert list(tmp_path.iterdir()) == [src]


# Source, destination, overwrite, and what the message holds.
PLACES = [
    ("Org/model", "dst", False, "src = .*is not a folder.*hf download .*Org/model --local-dir DIR"),
    ("junk/file", "dst", False, "is not a folder"),
    ("src", "src", True, "is src itself"),
    ("src", "junk/../src", True, "is src itself"),
    ("link", "src", True, "is src itself"),
    ("src", "link", True, "is src itself"),
    ("src", "src/dst", False, "lies in the other"),
    ("src", "link/dst", False, "lies in the other"),
    ("src", ".", True, "lies in the other"),  # replacing it would remove the source
    ("src", "done", False, "exists already.*--overwrite"),
    ("src", "junk", False, "exists already"),
    ("src", "junk", True, "is not a checkpoint"),  # a mistyped path must not cost other files
    ("src", "junk/file", True, "is not a checkpoint"),
]


@pytest.mark.parametrize(("src", "dst", "overwrite", "message"), PLACES)
def test_unusable_places_are_refused(source, tmp_path, src, dst, overwrite, message):
    for name in ("src", "done"):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "file").write_text("mine")
    (tmp_path / "link").symlink_to("src")
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        expand_vocabulary(tmp_path / src, tmp_path / dst, BINS, overwrite=overwrite)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("num_bins", [1, 0, -5, True, 2.5])
def test_unusable_numbers_of_bins_are_refused(source, tmp_path, num_bins):
    with pytest.raises(ValueError, match=f"num_bins = {num_bins}: must be an integer of at least 2"):
        expand_vocabulary(source, tmp_path / "dst", num_bins)


def fail(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["save_file", "copy_other_files", "_verify", "os.rename"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_run_changes_nothing(source, tmp_path, monkeypatch, step, overwrite):
    dst = tmp_path / "dst"
    if overwrite:
        shutil.copytree(source, dst)
    before = files_of(tmp_path)
    owner, name = (os, "rename") if step == "os.rename" else (vocabulary, step)
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(KeyboardInterrupt):
        expand_vocabulary(source, dst, BINS, overwrite=overwrite)
    assert files_of(tmp_path) == before and dst.exists() is overwrite
    assert list(tmp_path.iterdir()) == [dst] * overwrite


def test_what_was_there_returns_if_it_cannot_be_replaced(source, tmp_path, monkeypatch):
    dst = Path(shutil.copytree(source, tmp_path / "dst"))
    before, rename = files_of(tmp_path), os.rename

    def rename_old_only(old, new):
        if Path(old).name == "checkpoint":
            raise OSError("no")
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_old_only)
    with pytest.raises(OSError, match="no"):
        expand_vocabulary(source, dst, BINS, overwrite=True)
    assert files_of(tmp_path) == before and list(tmp_path.iterdir()) == [dst]


def test_a_full_disk_is_a_failure_of_the_file_system(source, tmp_path, monkeypatch):
    def save_file(*args, **kwargs):
        raise vocabulary.SafetensorError("No space left on device")

    monkeypatch.setattr(vocabulary, "save_file", save_file)
    with pytest.raises(OSError, match=r"cannot write model\.safetensors.*No space left"):
        expand_vocabulary(source, tmp_path / "dst", BINS)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_keep_its_ids_is_refused(source, tmp_path, monkeypatch):
    save = Qwen2TokenizerFast.save_pretrained

    def save_pretrained(tokenizer, folder, **options):
        save(build_tiny_tokenizer(vocab_size=300, num_bins=BINS), folder, **options)

    monkeypatch.setattr(Qwen2TokenizerFast, "save_pretrained", save_pretrained)
    with pytest.raises(ValueError, match="Qwen2Tokenizer.* changes its ids when saved and loaded"):
        expand_vocabulary(source, tmp_path / "dst", BINS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["checkpoint", "empty folder", "link"])
def test_overwrite_replaces_the_whole_folder(source, tmp_path, kind):
    dst, place = tmp_path / "dst", tmp_path / "place"
    dst.mkdir()
    if kind != "empty folder":
        shutil.copytree(source, dst, dirs_exist_ok=True)
        (dst / "old.txt").write_text("old")
    if kind == "link":
        place.symlink_to("dst")
    expand_vocabulary(source, place if kind == "link" else dst, BINS, overwrite=True)
    assert place.is_symlink() is (kind == "link")
    assert files_of(dst).keys() == files_of(source).keys()
    CoordVocabulary.from_tokenizer(AutoTokenizer.from_pretrained(dst), BINS)
    assert {path.name for path in tmp_path.iterdir()} == {"dst", "place"} if kind == "link" else {"dst"}

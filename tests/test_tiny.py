# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The tiny checkpoint: reproducible, complete, and of the real classes and token layout."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import (
    STRUCTURE_TOKENS,
    build_tiny_config,
    build_tiny_model,
    build_tiny_tokenizer,
    create_tiny_checkpoint,
)

SMALL = {"hidden_size": 32, "num_layers": 1, "vision_depth": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return create_tiny_checkpoint(tmp_path_factory.mktemp("small") / "nested" / "checkpoint", seed=3, **SMALL)


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_seeds_give_equal_files(checkpoint, tmp_path):
    again = create_tiny_checkpoint(tmp_path / "again", seed=3, **SMALL)
    assert files_of(again) == files_of(checkpoint)


def test_another_seed_gives_other_weights_and_nothing_else(checkpoint, tmp_path):
    other = create_tiny_checkpoint(tmp_path / "other", seed=4, **SMALL)
    first, second = files_of(checkpoint), files_of(other)
    assert [name for name in first if first[name] != second[name]] == ["model.safetensors"]
    tensors, other_tensors = load_file(checkpoint / "model.safetensors"), load_file(other / "model.safetensors")
    matrices = [name for name, tensor in tensors.items() if tensor.std() > 0]
    assert len(matrices) > 10 and not any(torch.equal(tensors[name], other_tensors[name]) for name in matrices)


def test_the_global_generators_are_left_alone(tmp_path, monkeypatch):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    create_tiny_checkpoint(tmp_path / "checkpoint", **SMALL)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_alone_decides(checkpoint, tmp_path):
    # whatever was drawn before
    torch.manual_seed(99)
    torch.randn(5)
    config = build_tiny_config(build_tiny_tokenizer(), **SMALL)
    model = build_tiny_model(config, build_tiny_tokenizer(), seed=3)
    saved = load_file(checkpoint / "model.safetensors")
    assert torch.equal(model.model.visual.pos_embed.weight, saved["model.visual.pos_embed.weight"])


@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_an_existing_place_is_not_touched(tmp_path, kind):
    place = tmp_path / "out"
    (place.mkdir() or place / "keep.txt" if kind == "folder with a file" else place).write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"out={str(place)!r} already exists and is not an empty folder")):
        create_tiny_checkpoint(place, **SMALL)
    assert (place / "keep.txt" if place.is_dir() else place).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [place]


def test_an_empty_folder_is_filled(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    assert create_tiny_checkpoint(place, **SMALL) == place
    assert (place / "config.json").is_file() and list(tmp_path.iterdir()) == [place]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Qwen3VLProcessor, "save_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create_tiny_checkpoint(tmp_path / "out", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_auto_classes_load_it(checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert type(model) is Qwen3VLForConditionalGeneration and type(processor) is Qwen3VLProcessor
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert len(AutoTokenizer.from_pretrained(checkpoint)) == len(processor.tokenizer)
    assert processor.tokenizer.padding_side == "left" and processor.tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.new("RGB", (96, 64))], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3)
    assert output.shape == (1, inputs["input_ids"].size(1) + 3)


def test_the_chat_format_is_that_of_qwen(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ]
    assert processor.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
        "<|im_start|>assistant\nYes<|im_end|>\n"
    )


def test_every_token_has_a_row_and_coordinates_follow_each_other(checkpoint):
    tokenizer, config = AutoTokenizer.from_pretrained(checkpoint), AutoConfig.from_pretrained(checkpoint)
    vocabulary = CoordVocabulary.from_tokenizer(tokenizer)
    assert vocabulary.num_bins == 1000 and vocabulary.wildcard_id == vocabulary.contiguous_start - 1
    assert config.text_config.vocab_size == len(tokenizer) == int(vocabulary.ids[-1]) + 1
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        token = f"<|{name.removesuffix('_token_id')}|>".replace("<|image|>", "<|image_pad|>")
        token = token.replace("<|video|>", "<|video_pad|>")
        assert getattr(config, name) == tokenizer.convert_tokens_to_ids(token)


@pytest.mark.parametrize("num_bins", [0, 10])
def test_number_of_bins(tmp_path, num_bins):
    path = create_tiny_checkpoint(tmp_path / "checkpoint", num_bins=num_bins, **SMALL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    coordinates = [token for token in tokenizer.get_vocab() if token.startswith("<|coord_")]
    assert len(coordinates) == (num_bins + 1 if num_bins else 0)
    assert len(tokenizer) == len(build_tiny_tokenizer()) - 1001 + len(coordinates)
    assert AutoConfig.from_pretrained(path).text_config.vocab_size == len(tokenizer)
    if num_bins:
        assert CoordVocabulary.from_tokenizer(tokenizer, num_bins).num_bins == num_bins
    else:
        with pytest.raises(ValueError, match="1000 of the 1000 coordinate tokens are missing"):
            CoordVocabulary.from_tokenizer(tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tmp_path, tied):
    path = create_tiny_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=tied, **SMALL)
    model = AutoModelForImageTextToText.from_pretrained(path)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embeddings) is tied
    assert tied or not torch.equal(head, embeddings)
    assert json.loads((path / "config.json").read_text())["tie_word_embeddings"] is tied


def test_the_parts_of_a_real_qwen3_vl_are_there(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint)
    assert config.model_type == "qwen3_vl" and config.text_config.rope_parameters["mrope_interleaved"]
    names = set(load_file(checkpoint / "model.safetensors"))
    assert any(name.startswith("model.visual.deepstack_merger_list.0") for name in names)
    assert any(name.startswith("model.visual.merger") for name in names)


@pytest.mark.parametrize(
    ("text", "shared"), [("</desc><box>", "><"), ("</box></obj>", "></"), ('": [{"a": []}', "]}")]
)
def test_structure_characters_share_tokens_as_in_qwen(text, shared):
    # This is what makes a decode and encode round trip lose objects; the miniature must have it too.
    assert shared in build_tiny_tokenizer().tokenize(text)


OBJECTS = [
    DetectionObject(desc="red circle", bins=(1, 2, 300, 400)),
    DetectionObject(desc="obj><box", bins=(0, 0, 999, 999)),  # pieces of structure in a description
    DetectionObject(desc="黑猫", bins=(5, 5, 5, 5)),
]


def test_structure_tokens_halve_an_object(tmp_path):
    path = create_tiny_checkpoint(tmp_path / "checkpoint", structure_tokens=True, **SMALL)
    tokenizer, plain = AutoTokenizer.from_pretrained(path), build_tiny_tokenizer()
    assert len(tokenizer) == len(plain) + 3 == AutoConfig.from_pretrained(path).text_config.vocab_size
    protocol = get_protocol("tags", tokenizer)
    ids = protocol.encode(OBJECTS)
    assert ids == tokenizer(protocol.serialize(OBJECTS))["input_ids"]
    assert tokenizer.decode(ids) == get_protocol("tags", plain).serialize(OBJECTS)
    descriptions = sum(len(tokenizer(item.desc)["input_ids"]) for item in OBJECTS)
    assert len(ids) == descriptions + len(OBJECTS) * (len(STRUCTURE_TOKENS) + 4)
    short, long = (get_protocol("tags", each).encode(OBJECTS[:1]) for each in (tokenizer, plain))
    assert len(short) < 0.6 * len(long)
    # Structure is text like any other: it is kept when special tokens are left out
    assert set(tokenizer.convert_tokens_to_ids(STRUCTURE_TOKENS)).isdisjoint(tokenizer.all_special_ids)


@pytest.mark.parametrize("spelt", [False, True], ids=["as tokens", "character by character"])
def test_structure_tokens_are_parsed(spelt):
    tokenizer = build_tiny_tokenizer(structure_tokens=True)
    protocol = get_protocol("tags", tokenizer)
    ids = protocol.encode(OBJECTS)
    if spelt:  # as a model may write it, whatever the tokenizer prefers
        structure = tokenizer.convert_tokens_to_ids(STRUCTURE_TOKENS)
        letters = [sum(tokenizer(list(text))["input_ids"], []) for text in STRUCTURE_TOKENS]
        spelling = dict(zip(structure, letters, strict=True))
        ids = [letter for token in ids for letter in spelling.get(token, [token])]
        assert tokenizer.decode(ids) == protocol.serialize(OBJECTS) and set(ids).isdisjoint(structure)
    parsed = protocol.parse([*ids, tokenizer.eos_token_id])
    assert [(item.desc, item.bins) for item in parsed.objects] == [(item.desc, item.bins) for item in OBJECTS]
    assert parsed.ended and not parsed.dropped and not parsed.truncated


def test_every_patch_can_be_an_image_token(checkpoint, tmp_path):
    path = create_tiny_checkpoint(tmp_path / "checkpoint", merge_size=1, **SMALL)
    merged, single = (PromptBuilder(AutoProcessor.from_pretrained(each)) for each in (checkpoint, path))
    image = Image.new("RGB", (96, 64), "red")
    model, processor = AutoModelForImageTextToText.from_pretrained(path), AutoProcessor.from_pretrained(path)
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ((few,), (many,)) = merged([image]), single([image])
    assert (few.ids.count(image_id), many.ids.count(image_id)) == (3 * 2, 6 * 4)
    assert torch.equal(few.image_grid_thw, many.image_grid_thw)
    assert single.lengths([(96, 64)]) == [len(many.ids)]
    # The patches come row by row instead of square by square
    assert sorted(map(tuple, few.pixel_values.tolist())) == sorted(map(tuple, many.pixel_values.tolist()))
    inputs = processor(text=[single.text], images=[image], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (1, len(many.ids), len(processor.tokenizer)) and logits.isfinite().all()
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape == (1, len(many.ids) + 3)


def test_filters_for_contrast_are_an_option(checkpoint, tmp_path):
    path = create_tiny_checkpoint(tmp_path / "out", seed=3, contrast_filters=False, **SMALL)
    plain, usual = (load_file(folder / "model.safetensors") for folder in (path, checkpoint))
    filters = "model.visual.patch_embed.proj.weight"
    assert [name for name in plain if not torch.equal(plain[name], usual[name])] == [filters]
    brightness = [weights[filters].mean((2, 3, 4)).norm() / weights[filters].norm() for weights in (usual, plain)]
    assert brightness[0] < 0.2 * brightness[1]

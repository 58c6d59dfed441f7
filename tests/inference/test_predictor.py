# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.predictor on the shipped detector."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import CONFIG
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.evaluation.f1 import DetectionCounts, count_detections
from coordexp_trl.generation import VLLMConfig
from coordexp_trl.inference import InferenceConfig, Predictor
from coordexp_trl.tiny import DETECTOR_SCENES


def test_each_image_gets_its_own_prediction_in_order(predictor, pictures):
    together = predictor.predict(pictures, names=list("abcdef"))
    assert [item.image for item in together] == list("abcdef")
    assert [(item.width, item.height) for item in together] == [picture.size for picture in pictures]
    alone = [predictor.predict([picture])[0] for picture in pictures]
    assert [item.text for item in together] == [item.text for item in alone]
    assert len({item.text for item in together}) == len(pictures)
    for item in together:
        assert item.objects and item.finish_reason == "length"
        for found in item.objects:
            assert 0 < found.score < 1 and len(found.std) == 4 and min(found.std) > 0


def test_the_detector_finds_shapes(detector):
    config = replace(CONFIG, max_completion_length=160)
    drawn = [draw_shapes(seed=1, index=k, **DETECTOR_SCENES) for k in range(3)]
    found = Predictor(detector, config=config, device="cpu").predict([picture for picture, _ in drawn])
    counts = [
        count_detections(
            [item.bbox_2d for item in prediction.objects],
            [item.desc for item in prediction.objects],
            [item.bbox_2d for item in objects],
            [item.desc for item in objects],
            iou_threshold=0.5,
        )
        for prediction, (_, objects) in zip(found, drawn, strict=True)
    ]
    assert sum(counts, DetectionCounts()).f1 > 0.6
    assert all(item.finish_reason == "stop" for item in found)


def test_images_of_any_mode(predictor, pictures):
    grey = pictures[0].convert("L")
    assert predictor.predict([grey])[0].text == predictor.predict([grey.convert("RGB")])[0].text
    assert predictor.predict([]) == []
    assert predictor.predict([pictures[0].convert("RGBA")])[0].text == predictor.predict([pictures[0]])[0].text


def test_expectation_moves_boxes_but_not_scores(detector, predictor, pictures):
    mean = Predictor(detector, config=replace(CONFIG, expectation=True), device="cpu", batch_size=4)
    pairs = zip(predictor.predict(pictures[:2]), mean.predict(pictures[:2]), strict=True)
    for a, b in [(a, b) for plain, moved in pairs for a, b in zip(plain.objects, moved.objects, strict=True)]:
        assert (a.desc, a.score) == (b.desc, b.score) and a.bbox_2d != b.bbox_2d
        assert all(abs(x - y) <= 5 * max(s, 0.3) for x, y, s in zip(a.bbox_2d, b.bbox_2d, a.std, strict=True))


def test_chunks_of_classes_share_the_vision_features(detector, pictures):
    classes = ("red circle", "blue square", "green triangle", "white circle", "yellow square")
    config = replace(CONFIG, classes=classes, max_classes_per_prompt=2)
    chunked = Predictor(detector, config=config, device="cpu", batch_size=4)
    assert (len(config.instructions), chunked.images_per_batch) == (3, 1)
    towers = []
    chunked.model.model.visual.register_forward_hook(lambda module, args, output: towers.append(len(args[0])))
    found = chunked.predict(pictures[:2])
    patches = [len(prompt.pixel_values) for prompt in chunked.prompts(pictures[:2])[::3]]
    assert sorted(towers) == sorted(patches)  # once for each image, not for each of its three prompts
    for prediction, picture in zip(found, pictures, strict=False):
        texts = []
        for group, instruction in zip(config.class_groups, config.instructions, strict=True):
            alone = Predictor.predict(_with(chunked, replace(CONFIG, prompt=instruction)), [picture])[0]
            texts.append(alone.text)
            asked = [item.desc for item in alone.objects if item.desc in group]
            assert [item.desc for item in prediction.objects if item.desc in group] == asked
        assert prediction.text == "\n".join(texts)


def _with(predictor: Predictor, config: InferenceConfig) -> Predictor:
    """Another predictor on the same model."""
    other = Predictor.__new__(Predictor)
    other.__dict__.update(predictor.__dict__, config=config)
    return other


def test_beams_have_no_scores(detector, pictures):
    beams = Predictor(detector, config=replace(CONFIG, num_beams=2, max_completion_length=24), device="cpu")
    objects = [item for prediction in beams.predict(pictures[:2]) for item in prediction.objects]
    assert objects and all(item.score is None and item.std is None for item in objects)


def test_sampling_depends_on_the_seed_and_leaves_the_generator_alone(detector, predictor, pictures):
    def texts(seed):
        config = replace(CONFIG, temperature=1.0, seed=seed)
        sampled = _with(predictor, config)
        sampled.sampling = config.sampling(use_vllm=False)
        return [item.text for item in sampled.predict(pictures[:2])]

    state = torch.get_rng_state()
    first = texts(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert texts(1) == first != texts(2)


@pytest.mark.parametrize("rows", [False, True], ids=["lora", "lora_rows"])
def test_adapters(detector, pictures, tmp_path, rows):
    base = AutoModelForImageTextToText.from_pretrained(detector, dtype=torch.float32)
    options = {"trainable_token_indices": {"embed_tokens": list(range(1000, 1010))}} if rows else {}
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "adapter")
    plain = Predictor(detector, config=CONFIG, device="cpu")
    loaded = Predictor(detector, tmp_path / "adapter", config=CONFIG, device="cpu")
    expected = _with(plain, CONFIG)
    expected.model = adapted.eval()
    expected.engine = type(plain.engine)(**{**vars(plain.engine), "unwrap": _context(adapted)})
    texts = [item.text for item in loaded.predict(pictures[:2])]
    assert texts == [item.text for item in expected.predict(pictures[:2])]
    assert texts != [item.text for item in plain.predict(pictures[:2])]


def _context(model):
    return lambda: nullcontext(model)


def test_what_cannot_be_loaded(detector, tmp_path):
    with pytest.raises(ValueError, match="no adapter_config.json"):
        Predictor(detector, tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        Predictor("./nowhere")
    with pytest.raises(ValueError, match="batch_size = 0"):
        Predictor(detector, batch_size=0)
    with pytest.raises(ValueError, match="device = 'tpu7': unknown"):
        Predictor(detector, device="tpu7")
    with pytest.raises(ValueError, match="device = 'cuda:99': there are"):
        Predictor(detector, device="cuda:99")
    other = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(detector), LoraConfig(r=2, target_modules=["q_proj"])
    )
    other.save_pretrained(tmp_path / "other")
    weights = tmp_path / "other" / "adapter_model.safetensors"
    _stretch(weights)
    with pytest.raises(ValueError, match="(?s)does not fit model"):
        Predictor(detector, tmp_path / "other", device="cpu")


def _stretch(file):
    save_file({name: torch.cat([value, value], 1) for name, value in load_file(file).items()}, file)


def test_an_image_beyond_the_context(predictor):
    huge = _with(predictor, replace(CONFIG, max_completion_length=4090))
    with pytest.raises(ValueError, match=r"big: its prompt of \d+ tokens and max_completion_length = 4090 exceed"):
        huge.predict([Image.new("RGB", (64, 64))], names=["big"])


def test_vllm_refuses_beams_before_anything_is_loaded(detector):
    with pytest.raises(ValueError, match="num_beams=2|needs vLLM"):
        Predictor(detector, config=replace(CONFIG, num_beams=2), vllm=VLLMConfig(use_vllm=True))
    with pytest.raises(ValueError, match="expectation with vLLM needs|needs vLLM"):
        Predictor(detector, config=replace(CONFIG, expectation=True), vllm=VLLMConfig(use_vllm=True))

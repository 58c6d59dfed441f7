# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the generation tests: one small model whose greedy choices are clear, its processor and three images."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm_processes import Server

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation import Prompt, PromptBuilder, TransformersEngine
from coordexp_trl.tiny import (
    build_tiny_config,
    build_tiny_model,
    build_tiny_processor,
    build_tiny_tokenizer,
    detector_path,
)

SIZES = ((96, 64), (64, 160), (40, 40))


@pytest.fixture(scope="session")
def processor():
    return build_tiny_processor(build_tiny_tokenizer())


@pytest.fixture(scope="session")
def vocabulary(processor):
    return CoordVocabulary.from_tokenizer(processor.tokenizer)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


@pytest.fixture(scope="session")
def prompts(processor, images) -> list[Prompt]:
    return PromptBuilder(processor)(images)


@pytest.fixture
def model(processor):
    """A small model with weights so large that it looks at its image and the two likeliest tokens are seldom close."""
    config = build_tiny_config(
        processor.tokenizer, hidden_size=64, num_layers=2, vision_depth=2, tie_word_embeddings=False
    )
    model = build_tiny_model(config, processor.tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 if name == "lm_head.weight" else 0.08, generator=generator)
    return model


@pytest.fixture
def make_engine(processor, vocabulary):
    """An engine on a model, with other end tokens if they are given."""

    def make(model, eos_token_ids=None) -> TransformersEngine:
        token_id = processor.tokenizer.convert_tokens_to_ids
        return TransformersEngine(
            lambda: nullcontext(model),
            eos_token_ids=[token_id("<|im_end|>")] if eos_token_ids is None else eos_token_ids,
            pad_token_id=processor.tokenizer.pad_token_id,
            image_token_id=token_id("<|image_pad|>"),
            suppress_tokens=[token_id("<|image_pad|>"), token_id("<|video_pad|>")],
            coord_ids=vocabulary.ids,
        )

    return make


@pytest.fixture
def teacher_forced():
    """Logits `(length, vocabulary)` that predict each completion token, from one forward without cache or padding."""

    @torch.no_grad()
    def run(model, prompt: Prompt, completion_ids: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt.ids + completion_ids])
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            use_cache=False,
        ).logits[0]
        return logits[len(prompt.ids) - 1 : -1].float()

    return run


@pytest.fixture(scope="session")
def detector() -> Path:
    """The shipped tiny detector: tied, and its greedy choices depend on the image."""
    return Path(detector_path())


@pytest.fixture(scope="session")
def untied_detector(detector, tmp_path_factory) -> Path:
    """The tiny detector with a head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "checkpoint"
    model = AutoModelForImageTextToText.from_pretrained(detector, dtype=torch.float32)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(detector).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_server(untied_detector, tmp_path_factory):
    """A server of the untied detector on its way up: `wait` for it."""
    server = Server.start(untied_detector, tmp_path_factory.mktemp("server"))
    yield server
    server.stop()

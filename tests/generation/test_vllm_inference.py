# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp infer` on real vLLM, in both modes, against transformers on the same weights."""

import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm_processes import ENVIRONMENT, Server

from coordexp_trl.adapters.merge import merge_adapter
from coordexp_trl.adapters.rows import with_token_rows
from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.inference import InferenceConfig, run_inference
from coordexp_trl.predictions import read_predictions
from coordexp_trl.tiny import DETECTOR_SCENES

pytestmark = pytest.mark.vllm

CONFIG = InferenceConfig(prompt="Detect.", max_completion_length=80, dtype="float32")
DEADLINE = 300  # seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return create_shapes(tmp_path_factory.mktemp("data") / "shapes", 3, seed=1, **DETECTOR_SCENES)


def infer(model, data, out, *options):
    """Runs the command with vLLM in a process of its own; returns its predictions."""
    arguments = ["infer", "--model", model, "--data", data, "--out", out, "--use-vllm", "--prompt", CONFIG.prompt]
    arguments += ["--max-completion-length", CONFIG.max_completion_length, "--dtype", CONFIG.dtype, *options]
    done = subprocess.run(
        [sys.executable, "-m", "coordexp_trl.cli", *map(str, arguments)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return read_predictions(out / "predictions.jsonl")


def assert_equal(actual, expected):
    assert [item.text for item in actual] == [item.text for item in expected]
    for found, wanted in zip(actual, expected, strict=True):
        assert [item.bbox_2d for item in found.objects] == [item.bbox_2d for item in wanted.objects]
        scores = [item.score for item in wanted.objects]
        assert [item.score for item in found.objects] == pytest.approx(scores, abs=1e-4) and scores


def test_colocated_with_an_adapter(detector, data, tmp_path):
    """The adapter's weights reach vLLM; given all tokens, standard deviations are those of the whole distribution."""
    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(detector, dtype=torch.float32),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (value for value in model.parameters() if value.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")

    def transformers(out, adapter):
        run_inference(detector, data, tmp_path / out, adapter, CONFIG, device="cpu", show_progress=False)
        return read_predictions(tmp_path / out / "predictions.jsonl")

    expected, without = transformers("expected", tmp_path / "adapter"), transformers("without", None)
    assert [item.text for item in expected] != [item.text for item in without]
    everything = model.config.get_text_config().vocab_size
    options = ["--adapter", tmp_path / "adapter", "--vllm-enforce-eager", "--vllm-top-logprobs", everything]
    actual = infer(detector, data, tmp_path / "actual", *options)
    assert_equal(actual, expected)
    for found, wanted in zip(actual, expected, strict=True):
        for one, other in zip(found.objects, wanted.objects, strict=True):
            assert one.std == pytest.approx(other.std, abs=0.01)


def test_a_merged_model_writes_what_base_and_adapter_write(detector, data, tmp_path):
    """LoRA and coordinate rows, which vLLM would not load as an adapter, in one plain checkpoint."""
    base = tmp_path / "base"
    model = AutoModelForImageTextToText.from_pretrained(detector, dtype=torch.float32)
    model.save_pretrained(base)
    processor = AutoProcessor.from_pretrained(detector)
    processor.save_pretrained(base)
    model = AutoModelForImageTextToText.from_pretrained(base)
    ids = CoordVocabulary.from_tokenizer(processor.tokenizer).ids.tolist()
    model = get_peft_model(model, with_token_rows(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), model, ids))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (value for value in model.parameters() if value.requires_grad):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")

    run_inference(base, data, tmp_path / "expected", tmp_path / "adapter", CONFIG, device="cpu", show_progress=False)
    expected = read_predictions(tmp_path / "expected" / "predictions.jsonl")
    assert_equal(infer(tmp_path / "merged", data, tmp_path / "actual", "--vllm-enforce-eager"), expected)


@pytest.fixture
def fresh_server(untied_detector, tmp_path):
    """A server of its own: the tests of training push other weights into the one that they share."""
    server = Server.start(untied_detector, tmp_path)
    yield server
    server.stop()


def test_a_server_answers_with_its_own_weights(untied_detector, fresh_server, data, tmp_path):
    run_inference(untied_detector, data, tmp_path / "expected", config=CONFIG, device="cpu", show_progress=False)
    fresh_server.wait()
    options = ["--vllm-mode", "server", "--vllm-server-base-url", fresh_server.url]
    actual = infer(untied_detector, data, tmp_path / "actual", *options)
    assert_equal(actual, read_predictions(tmp_path / "expected" / "predictions.jsonl"))
    assert all(item.std is None for prediction in actual for item in prediction.objects)

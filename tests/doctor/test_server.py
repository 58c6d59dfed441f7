# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the doctor finds in servers: none, a right one, and wrong ones. No vLLM serves here."""

import socket

import pytest
import torch
from fake_server import answering

from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.server import check_images, check_server
from coordexp_trl.doctor.server_connection import Server, base_url
from coordexp_trl.tiny import detector_path

pytestmark = pytest.mark.vllm

IMAGE_TOKENS = 36


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint(detector_path())


@pytest.fixture
def examined(checkpoint, by_name):
    """Findings about a server that answers as a right one does but for some paths."""

    def run(compare=True, parity=False, timeout=5.0, **others):
        from vllm import __version__

        vocabulary = checkpoint.tokenizer.get_vocab()
        config = {
            "weight_transfer_config": {"backend": "nccl"},
            "model_config": {"logprobs_mode": "raw_logprobs", "max_logprobs": -1},
        }
        answers = {
            "health": {},
            "v1/models": {"data": [{"id": "mine"}]},
            "version": {"version": __version__},
            "tokenize": lambda body: {"tokens": [vocabulary[body["prompt"]]], "max_model_len": 4096},
            "server_info": {"vllm_config": config},
            "v1/chat/completions/render": lambda body: (
                405 if body is None else {"features": {"mm_placeholders": {"image": [{"length": IMAGE_TOKENS}]}}}
            ),
        }
        renamed = {name.replace("__", "/"): answer for name, answer in others.items()}
        with answering(answers | renamed) as url:
            return by_name(check_server(url, timeout, checkpoint if compare else None, parity))

    return run


def problems(checks):
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


@pytest.mark.parametrize("compare", [True, False])
def test_the_right_server(examined, compare):
    checks = examined(compare)
    assert problems(checks) == {}
    assert set(checks) == {
        f"server.{name}"
        for name in ("reachable", "version", "tokens", "context", "images", "weight_transfer", "logprobs")
    }
    assert checks["server.reachable"].message.endswith("serves 'mine'")
    first, last = checkpoint_ids()
    assert str(first) in checks["server.tokens"].message and str(last) in checks["server.tokens"].message


def checkpoint_ids():
    ids = Checkpoint(detector_path()).vocabulary.ids
    return int(ids[0]), int(ids[-1])


# What the server answers otherwise, whether a checkpoint is compared, the check, its status, message and remedy.
FAULTS = {
    "another vLLM": ({"version": {"version": "0.1.0"}}, True, "version", "fail", "runs vLLM 0.1.0", "pip install"),
    "no coordinate tokens": (
        {"tokenize": lambda body: {"tokens": [5, 6], "max_model_len": 4096}},
        True,
        "tokens",
        "fail",
        "reads '<|coord_0|>' as [5, 6]",
        "vllm serve",
    ),
    "no coordinate tokens, no checkpoint": (
        {"tokenize": lambda body: {"tokens": [5, 6], "max_model_len": 4096}},
        False,
        "tokens",
        "fail",
        "reads <|coord_0|> as 2 tokens",
        "expand-vocab",
    ),
    "other ids": (
        {"tokenize": lambda body: {"tokens": [7], "max_model_len": 4096}},
        True,
        "tokens",
        "fail",
        "as [7] instead of [416]",
        "vllm serve",
    ),
    "development endpoints closed": ({"server_info": None}, True, "weight_transfer", "warn", "closed", "DEV_MODE=1"),
    "unknown log-probabilities": ({"server_info": None}, True, "logprobs", "warn", "does not tell", "--logprobs-mode"),
    "no backend": (
        {"server_info": {"vllm_config": {"model_config": {"logprobs_mode": "raw_logprobs"}}}},
        True,
        "weight_transfer",
        "warn",
        "without --weight-transfer-config",
        "--weight-transfer-config",
    ),
    "other log-probabilities": (
        {"server_info": {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}}},
        True,
        "logprobs",
        "warn",
        "'processed_logprobs'",
        "--logprobs-mode raw_logprobs",
    ),
    "no images": (
        {"v1__chat__completions__render": None},
        True,
        "images",
        "fail",
        "no endpoint",
        "--enable-scale-out",
    ),
    "resized images": (
        {
            "v1__chat__completions__render": lambda body: (
                405 if body is None else {"features": {"mm_placeholders": {"image": [{"length": 49}]}}}
            )
        },
        True,
        "images",
        "fail",
        f"makes 49 tokens of an image that the training prompt has with {IMAGE_TOKENS}",
        "do_resize",
    ),
    "not healthy": ({"health": 503}, True, "reachable", "fail", "not healthy", "vllm serve"),
    "not vLLM": ({"v1__models": None}, True, "reachable", "fail", "not as vLLM does", "Correct the address"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(examined, fault):
    answers, compare, name, status, message, remedy = FAULTS[fault]
    check = examined(compare, timeout=1.0 if name == "reachable" else 5.0, **answers)[f"server.{name}"]
    assert check.status == status and message in check.message and remedy in check.remedy


def test_a_short_context(examined, checkpoint):
    vocabulary = checkpoint.tokenizer.get_vocab()
    checks = examined(tokenize=lambda body: {"tokens": [vocabulary[body["prompt"]]], "max_model_len": 512})
    assert problems(checks) == {"server.context": "warn"}
    assert checks["server.context"].message.startswith("512 tokens, no room")


def test_a_server_that_is_not_there(checkpoint, by_name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checks = by_name(check_server(f"127.0.0.1:{port}", 0.5, checkpoint, parity=True))
    assert problems(checks) == {"server.reachable": "fail", "server.skipped": "warn"}
    assert f"http://127.0.0.1:{port} within 0.5 s" in checks["server.reachable"].message
    assert f"vllm serve {checkpoint.folder} --enable-scale-out" in checks["server.reachable"].remedy
    assert "server.parity" in checks["server.skipped"].message


def test_a_server_that_breaks_off_in_a_check(examined):
    checks = examined(tokenize=500)
    assert checks["server.tokens"].status == "fail" and "status 500" in checks["server.tokens"].message
    assert checks["server.logprobs"].status == "ok"


def test_without_vllm_here(examined, monkeypatch):
    from coordexp_trl.doctor import server

    def missing():
        raise ValueError("not installed")

    monkeypatch.setattr(server, "require_vllm", missing)
    checks = examined()
    assert checks["server.reachable"].message == "no vLLM on this side: not installed"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://localhost:8000", "http://localhost:8000/", "http://localhost:8000/v1/"]
)
def test_addresses(url):
    assert base_url(url) == "http://localhost:8000"


def test_the_picture_needs_resizing(checkpoint):
    """Else a server that resizes would go unnoticed."""
    sent = []

    class Client:
        base_url = "http://localhost"

        class session:
            @staticmethod
            def get(url):
                class answer:
                    status_code = 405

                return answer

        def image_features(self, images):
            sent.extend(images[0])
            return [{"mm_placeholders": {"image": [{"length": IMAGE_TOKENS}]}}]

    server = Server("", 1.0, checkpoint)
    server.client = Client()
    (check,) = check_images(server)
    assert check.status == "ok" and sent[0].size == (96, 96)


def greedy(checkpoint, length=20):
    """What the detector writes for the doctor's picture."""
    from transformers import AutoModelForImageTextToText

    from coordexp_trl.datasets.shapes import draw_shapes
    from coordexp_trl.generation import PromptBuilder

    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder, dtype="auto").eval()
    (prompt,) = PromptBuilder(checkpoint.processor)([draw_shapes(seed=0, index=0, image_size=128)[0]])
    ids = torch.tensor([prompt.ids])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        max_new_tokens=length,
    )
    return output[0, ids.size(1) :].tolist()


@pytest.mark.parametrize("right", [True, False])
def test_parity(examined, checkpoint, right):
    written = greedy(checkpoint)
    if not right:
        written = [min(token + 7, 1000) for token in written]
    answer = {"choices": [{"token_ids": written, "logprobs": None}]}
    # The picture of the parity check has 64 image tokens, that of the image check 36
    lengths = iter([IMAGE_TOKENS, 64])

    def features(body):
        return 405 if body is None else {"features": {"mm_placeholders": {"image": [{"length": next(lengths)}]}}}

    checks = examined(parity=True, v1__chat__completions__render=features, inference__v1__generate=answer)
    found = checks["server.parity"]
    assert found.status == ("ok" if right else "fail"), found
    if right:
        assert found.message.startswith("20 greedy tokens: 100.0% of the text tokens agree")
    else:
        assert "first difference is token 0" in found.message and "vllm serve" in found.remedy

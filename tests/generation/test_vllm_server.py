# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The connection to a vLLM server that is missing, slow, broken or serves something else. No vLLM runs here."""

import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack

import pytest
from fake_server import answering
from PIL import Image
from vllm_processes import free_port

pytestmark = pytest.mark.vllm

TOKENS = {"<|coord_0|>": 151670, "<|coord_999|>": 152669}


@pytest.fixture
def serve():
    """Starts a server that answers from a table of paths, to which a test may add; ends with the test."""
    from vllm import __version__

    answers = {
        "health": {},
        "v1/models": {"data": [{"id": "checkpoint"}]},
        "version": {"version": __version__},
        "tokenize": lambda body: {"tokens": [TOKENS[body["prompt"]]], "max_model_len": 512},
    }
    with ExitStack() as servers:
        yield lambda **others: servers.enter_context(answering(answers | others))


@pytest.fixture
def connect():
    from coordexp_trl.generation.vllm_server import VLLMServerClient

    return lambda url, timeout=5.0: VLLMServerClient(url, free_port(), timeout)


def test_a_server_that_is_not_there(connect):
    url, started = f"http://127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(ConnectionError, match=rf"{url} within 1 s.*vllm serve.*vllm_server_timeout"):
        connect(url, timeout=1.0)
    assert time.monotonic() - started < 10


def test_the_right_server(serve, connect):
    assert connect(serve()).check_model("checkpoint", TOKENS, 512) == 512


def test_a_prefix_cache_that_is_held(serve, connect):
    answers = iter([False, True])
    client = connect(serve(reset_prefix_cache=lambda body: {"success": next(answers)}))
    client.reset_prefix_cache()
    assert next(answers, None) is None
    client = connect(serve(reset_prefix_cache={"success": False}), timeout=1.0)
    with pytest.raises(ConnectionError, match="did not reset its prefix cache.*server of its own"):
        client.reset_prefix_cache()


def test_another_version(serve, connect):
    with pytest.raises(ValueError, match="runs vLLM 0.1.0, the trainer .*install the same version"):
        connect(serve(version={"version": "0.1.0"})).check_model("checkpoint", TOKENS, 512)


def test_a_checkpoint_without_coordinate_tokens(serve, connect):
    url = serve(tokenize=lambda body: {"tokens": [27, 91], "max_model_len": 512})
    with pytest.raises(ValueError, match=r"'<\|coord_0\|>' as \[27, 91\] instead of \[151670\].*vllm serve mine"):
        connect(url).check_model("mine", TOKENS, 512)


def test_a_context_that_is_too_short(serve, connect):
    with pytest.raises(ValueError, match="context of 512 tokens.*--max-model-len 600"):
        connect(serve()).check_model("checkpoint", TOKENS, 600)


def test_a_server_that_hangs(serve, connect):
    client = connect(serve(reset_encoder_cache=lambda body: time.sleep(3)), timeout=1.0)
    with pytest.raises(ConnectionError, match="did not answer .*/reset_encoder_cache within 1 s.*vllm_server_timeout"):
        client.reset_encoder_cache()


def test_a_server_that_goes_away(serve, connect):
    url = serve()
    client = connect(url)
    client.base_url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match="broke at .*/render .*--resume_from_checkpoint true"):
        client.image_features([[Image.new("RGB", (8, 8))]])


def test_a_server_that_refuses(serve, connect):
    with pytest.raises(ConnectionError, match="refused .*/reset_encoder_cache with status 404"):
        connect(serve()).reset_encoder_cache()


def test_weights_of_a_cpu_need_the_gloo_backend(serve):
    from coordexp_trl.generation.gloo_transfer import GlooServerClient

    info = {"vllm_config": {"weight_transfer_config": {"backend": "nccl"}}}
    client = GlooServerClient(serve(server_info=info), free_port(), 5.0)
    with pytest.raises(ValueError, match=r'--weight-transfer-config .*"gloo"'):
        client.init_communicator()


def test_a_group_port_that_is_in_use(serve, connect):
    client = connect(serve())
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        client.group_port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"vllm_group_port={client.group_port} cannot be opened.*free port"):
            client.check_group_port()


def test_a_transfer_that_hangs_ends_the_process():
    script = """
        import time
        from trl.generation.vllm_client import VLLMClient
        from coordexp_trl.generation.vllm_server import VLLMServerClient
        VLLMClient.update_named_params = lambda self, metadata, weights: time.sleep(60)
        client = VLLMServerClient.__new__(VLLMServerClient)
        client.timeout, client.base_url = 1.0, "http://somewhere:8000"
        client.update_named_params([], iter(()))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "Sending the weights to the vLLM server at http://somewhere:8000 took more than 1 s" in run.stderr

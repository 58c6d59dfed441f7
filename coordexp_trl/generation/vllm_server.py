# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The connection to a vLLM server: TRL's client, with a deadline on every call and errors that name the remedy."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import requests
import torch
from requests.adapters import HTTPAdapter
from trl.generation.vllm_client import VLLMClient
from urllib3.util.retry import Retry
from vllm import __version__ as vllm_version

logger = logging.getLogger(__name__)

SERVE_COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve CHECKPOINT --enable-scale-out --logprobs-mode raw_logprobs --max-logprobs -1 "
    """--weight-transfer-config '{"backend": "nccl"}'"""
)


class VLLMServerClient(VLLMClient):
    """
    Args:
        base_url (`str`):
            Address of the server.
        group_port (`int`):
            Port of the weight transfer.
        timeout (`float`):
            Seconds that any call may take, the first connection included.

    Raises:
        `ConnectionError`: If the server does not answer in time; names the address, the call and the remedy.
    """

    def __init__(self, base_url: str, group_port: int, timeout: float):
        self.timeout = timeout
        super().__init__(base_url=base_url, group_port=group_port, connection_timeout=timeout)

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 1.0) -> None:
        """Waits until the server is up; see [`~trl.generation.vllm_client.VLLMClient.check_server`]."""
        # What may have arrived is not sent again: a repeated weight transfer would wait for a sender that is gone
        only_connecting = Retry(total=None, connect=2, read=0, status=0, other=0, backoff_factor=0.5)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=only_connecting))
        # The server drops idle connections after some seconds, perhaps just when one is used again
        self.session.headers["Connection"] = "close"
        self._send, self.session.request = self.session.request, self._request
        deadline = time.monotonic() + total_timeout
        while True:
            try:
                if self.session.get(f"{self.base_url}/health", timeout=max(retry_interval, 1.0)).status_code == 200:
                    return
                reason = "it answers, but is not healthy"
            except ConnectionError as error:
                reason = type(error.__cause__).__name__
            if time.monotonic() >= deadline:
                raise ConnectionError(
                    f"No vLLM server answered at {self.base_url} within {total_timeout:g} s ({reason}). Start it with "
                    f"`{SERVE_COMMAND}`, correct vllm_server_host, vllm_server_port or vllm_server_base_url, or allow "
                    "it more time with vllm_server_timeout."
                )
            time.sleep(retry_interval)

    def _request(self, method: str, url: str, **kwargs) -> requests.Response:
        """Every call of the session comes through here: a deadline, and errors that say what to do."""
        try:
            return self._send(method, url, **({"timeout": self.timeout} | kwargs))
        except requests.Timeout as error:
            raise ConnectionError(
                f"The vLLM server did not answer {url} within {self.timeout:g} s. Look at its log; if it is only "
                "slow, raise vllm_server_timeout."
            ) from error
        except requests.RequestException as error:
            raise ConnectionError(
                f"The connection to the vLLM server broke at {url} ({type(error).__name__}). Look at its log and "
                "start it again; training goes on from the last checkpoint with --resume_from_checkpoint true."
            ) from error

    def _post(self, url: str, **kwargs) -> dict:
        response = self.session.post(url, **kwargs)
        if response.status_code != 200:
            message = f"The vLLM server refused {url} with status {response.status_code}: {response.text[:500]}"
            logger.error(message)  # at once: a transfer that it refuses may wait until the deadline
            raise ConnectionError(message)
        return response.json() if response.content else {}  # some answers have no body

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """See [`~trl.generation.vllm_client.VLLMClient.init_communicator`]."""
        self.check_group_port()
        with self._or_end("opening the weight transfer"):
            super().init_communicator(device)

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """See [`~trl.generation.vllm_client.VLLMClient.update_named_params`]."""
        if torch.cuda.is_available():  # vLLM's sender reads on streams of its own
            torch.cuda.current_stream().synchronize()
        with self._or_end("sending the weights"):
            super().update_named_params(metadata, named_params)

    @contextmanager
    def _or_end(self, work: str) -> Iterator[None]:
        """
        Ends the process if `work` outlasts the deadline: nothing else stops a collective of NCCL whose other side is
        gone, and the launcher then stops the other processes.
        """

        def end() -> None:
            logger.critical(
                f"{work.capitalize()} to the vLLM server at {self.base_url} took more than {self.timeout:g} s: it "
                "died, or another process uses vllm_group_port. Look at its log and start it again; training goes on "
                "from the last checkpoint with --resume_from_checkpoint true. If it is only slow, raise "
                "vllm_server_timeout."
            )
            os._exit(1)

        timer = threading.Timer(self.timeout, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _while_server_handles(self, call: str, payload: dict) -> Iterator[None]:
        """The server answers `call` only when the body has done its share; what the server says comes first."""
        with ThreadPoolExecutor(max_workers=1) as executor:
            answer = executor.submit(self._post, f"{self.base_url}/{call}", json=payload)
            try:
                yield
            finally:
                answer.result()

    def check_group_port(self) -> None:
        """Raises a `ValueError` if another program has the port that the trainer must open."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the rendezvous does
            try:
                probe.bind(("", self.group_port))
            except OSError as error:
                raise ValueError(
                    f"vllm_group_port={self.group_port} cannot be opened ({error.strerror}): another trainer may use "
                    "it. Choose a free port."
                ) from error

    def reset_prefix_cache(self) -> None:
        """Makes the server forget the keys and values of prompts that it has seen."""
        deadline = time.monotonic() + self.timeout
        while self._post(f"{self.base_url}/reset_prefix_cache").get("success") is False:  # a request holds some
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"The vLLM server at {self.base_url} did not reset its prefix cache within {self.timeout:g} s: "
                    "requests of another client are running. Give the trainer a server of its own."
                )
            time.sleep(0.5)

    def reset_encoder_cache(self) -> None:
        """Makes the server forget the features of images that it has seen."""
        self._post(f"{self.base_url}/reset_encoder_cache")

    def check_model(self, checkpoint: str, tokens: dict[str, int], min_context: int) -> int:
        """
        Refuses a server that cannot stand in for the model in training.

        Args:
            checkpoint (`str`):
                Checkpoint that the trainer loaded, for the message.
            tokens (`dict[str, int]`):
                Ids of some tokens that tell a vocabulary apart.
            min_context (`int`):
                Tokens of the longest prompt and completion together.

        Returns:
            `int`: The server's context in tokens.

        Raises:
            `ValueError`: If the server's vLLM is not the trainer's version, its vocabulary is another or lacks
                coordinate tokens, or its context is too short.
        """
        self.check_version()
        context = self.check_tokens(checkpoint, tokens)
        if context < min_context:
            raise ValueError(
                f"The server at {self.base_url} has a context of {context} tokens, prompt and "
                f"max_completion_length need {min_context}. Start it with --max-model-len {min_context} or more, or "
                "reduce max_completion_length or max_pixels."
            )
        return context

    def check_version(self) -> str:
        """Returns the server's version of vLLM; raises a `ValueError` if it is not the trainer's."""
        version = self._get(f"{self.base_url}/version")["version"]
        if version.split("+")[0] != vllm_version.split("+")[0]:
            raise ValueError(
                f"The server at {self.base_url} runs vLLM {version}, the trainer {vllm_version}. Weights are sent in "
                "a form that is the version's own: install the same version on both sides."
            )
        return version

    def check_tokens(self, checkpoint: str, tokens: dict[str, int]) -> int:
        """
        Args:
            checkpoint (`str`):
                Checkpoint that should be served, for the message.
            tokens (`dict[str, int]`):
                Ids of some tokens that tell a vocabulary apart.

        Returns:
            `int`: The server's context in tokens.

        Raises:
            `ValueError`: If the server reads a token as something else.
        """
        for token, expected in tokens.items():
            ids, context = self.tokenize(token)
            if ids != [expected]:
                raise ValueError(
                    f"The server at {self.base_url} serves {self.model!r}, which reads {token!r} as {ids} instead of "
                    f"[{expected}]. Serve the checkpoint that is being trained: vllm serve {checkpoint} …"
                )
        return context

    def tokenize(self, text: str) -> tuple[list[int], int]:
        """Returns the ids that the server reads in a text, and its context in tokens."""
        answer = self._post(
            f"{self.base_url}/tokenize", json={"model": self.model, "prompt": text, "add_special_tokens": False}
        )
        return answer["tokens"], answer["max_model_len"]

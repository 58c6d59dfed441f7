# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A server that is looked at."""

from dataclasses import dataclass
from functools import cached_property

from coordexp_trl.doctor.checkpoint import Checkpoint

_UNUSED_PORT = 0  # of the weight transfer, which is not opened


@dataclass
class Server:
    """
    A server, and what it is compared with.

    Args:
        url (`str`):
            Address.
        timeout (`float`):
            Seconds that any call may take.
        checkpoint ([`Checkpoint`], *optional*):
            The model that it should serve.
    """

    url: str
    timeout: float
    checkpoint: Checkpoint | None

    @cached_property
    def client(self):
        """The connected [`VLLMServerClient`]."""
        from coordexp_trl.generation.vllm_server import VLLMServerClient

        return VLLMServerClient(self.url, _UNUSED_PORT, self.timeout)

    @property
    def folder(self) -> str:
        """The checkpoint's folder, for commands."""
        return "CHECKPOINT" if self.checkpoint is None else str(self.checkpoint.folder)

    @cached_property
    def info(self) -> dict | None:
        """The server's configuration; `None` if it does not tell, because its development endpoints are closed."""
        try:
            return self.client.get_server_info()
        except RuntimeError:
            return None


def base_url(url: str) -> str:
    """Returns the address of a server as its client wants it: with a scheme, without the `/v1` of the API."""
    url = url if "://" in url else f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")

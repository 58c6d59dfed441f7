# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests run without the network."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def local_connections_only() -> Iterator[None]:
    """Connections beyond this machine fail at once instead of hanging or, worse, working."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and address[0] not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            raise RuntimeError(f"a test tried to reach {address[0]}: tests run without the network")
        return connect(self, address)

    with mock.patch.object(socket.socket, "connect", connect_locally):
        yield

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A server that answers from a table."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """
    Runs a server on this machine.

    Args:
        answers (`dict[str, Any]`):
            What is sent as JSON, or a function of the request's body that returns it, by path without its first slash.
            `None` sends status 404, as any other path does, and a number that status.

    Yields:
        `str`: its address.
    """

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            found = answers.get(self.path.split("?")[0].removeprefix("/"))
            found = found(body) if callable(found) else found
            data = json.dumps(found).encode()
            self.send_response(404 if found is None else found if isinstance(found, int) else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

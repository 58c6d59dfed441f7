# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""All checks that the given places allow, one after another."""

from collections.abc import Iterator
from pathlib import Path

from coordexp_trl.doctor.check import FAIL, Check, attempt, warn
from coordexp_trl.doctor.machine import check_disk, check_gpus, check_memory
from coordexp_trl.doctor.packages import check_imports, check_python, check_versions

# Without these, neither data nor a server can be compared with a checkpoint
_NEEDED = {f"model.{name}" for name in ("folder", "config", "tokenizer", "coordinates", "processor", "chat_template")}


def examine(
    model: str | None = None,
    adapter: str | None = None,
    data: str | None = None,
    server: str | None = None,
    image_root: str | None = None,
    protocol: str = "tags",
    timeout: float = 10.0,
    parity: bool = False,
) -> Iterator[Check]:
    """
    Looks over the installation and whatever is named.

    Args:
        model (`str`, *optional*):
            Checkpoint folder. Its weights are not loaded.
        adapter (`str`, *optional*):
            Folder of a PEFT adapter, for `model` or the base that it names.
        data (`str`, *optional*):
            JSONL file of records, or a fusion in YAML. The first 1000 records and 50 images of each file are read;
            with `model`, their tokens are counted.
        server (`str`, *optional*):
            Address of a vLLM server, compared with `model`.
        image_root (`str`, *optional*):
            Folder at which relative image paths of `data` start. Defaults to the folder of the file.
        protocol (`str`, *optional*, defaults to `"tags"`):
            Protocol in which `data` is written, `"tags"` or `"json"`.
        timeout (`float`, *optional*, defaults to `10.0`):
            Seconds within which the server must answer.
        parity (`bool`, *optional*, defaults to `False`):
            Whether to load `model` and compare a completion of the server with it.

    Yields:
        [`Check`]: the findings, as they are made.
    """
    yield from attempt("environment.python", check_python)
    yield from attempt("environment.versions", check_versions)
    yield from attempt("environment.imports", check_imports)
    yield from attempt("environment.gpu", check_gpus)
    yield from attempt("environment.memory", check_memory)
    yield from attempt("environment.disk", check_disk, Path.cwd())
    checkpoint = None
    if model is not None:
        from coordexp_trl.doctor.checkpoint import Checkpoint
        from coordexp_trl.doctor.model import check_model

        checkpoint = Checkpoint(model)
        failed = set()
        for check in attempt("model", check_model, checkpoint):
            failed |= {check.name} if check.status == FAIL else set()
            yield check
    if adapter is not None:
        from coordexp_trl.doctor.adapter import check_adapter

        yield from attempt("adapter", check_adapter, adapter, checkpoint)
    if checkpoint is not None and failed & _NEEDED and (data or server):
        checkpoint = None
        yield warn("model.compared", "data and server are not compared with it", "Mend what failed above.")
    if data is not None:
        from coordexp_trl.doctor.data import check_data

        yield from attempt("data", check_data, data, image_root, protocol, checkpoint)
    if server is not None:
        from coordexp_trl.doctor.server import check_server

        yield from attempt("server", check_server, server, timeout, checkpoint, parity and checkpoint is not None)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Everything that decides the predictions of a run, in JSON: a run goes on later only if it is all the same."""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coordexp_trl.inference.config import InferenceConfig

_SUFFIXES = (".bin", ".jinja", ".json", ".safetensors", ".txt")


def run_settings(
    model: str,
    adapter: str | None,
    data: dict[str, Any],
    image_root: str | Path | None,
    limit: int | None,
    engine: str,
    config: InferenceConfig,
) -> dict[str, Any]:
    """
    Args:
        model (`str`):
            Checkpoint folder or model id.
        adapter (`str`, *optional*):
            Folder of the adapter.
        data (`dict[str, Any]`):
            What tells the data from any other.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative image paths start.
        limit (`int`, *optional*):
            Number of images.
        engine (`str`):
            `"transformers"` or `"vllm"`.
        config ([`InferenceConfig`]):
            Options.

    Returns:
        `dict[str, Any]`: The settings. How fast they are reached is not among them: batch size, device, processes.
    """
    return {
        "model": _checkpoint(model),
        "adapter": None if adapter is None else _checkpoint(adapter),
        "data": data,
        "image_root": None if image_root is None else os.path.realpath(image_root),
        "limit": limit,
        "engine": engine,
        **asdict(config),
    }


def _checkpoint(name: str) -> dict[str, str]:
    """Path of a checkpoint, and a digest of its files' names, sizes and times; a model id is taken by its word."""
    folder = Path(name)
    if not folder.is_dir():
        return {"id": name}
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return {"path": os.path.realpath(folder), "files": hashlib.sha256(repr(states).encode()).hexdigest()[:16]}

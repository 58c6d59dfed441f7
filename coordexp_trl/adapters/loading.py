# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Adapter folders as PEFT saves them."""

import json
from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"


def base_of_adapter(folder: str | Path) -> str | None:
    """
    Args:
        folder (`str` or `Path`):
            A folder, or a model id.

    Returns:
        `str` or `None`: The checkpoint that the adapter in the folder belongs to; `None` if there is no adapter.

    Raises:
        `ValueError`: If the adapter does not say.
    """
    path = Path(folder).expanduser() / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a PEFT configuration ({error!r}). Save the adapter anew.") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path}: base_model_name_or_path = {base!r}. Write the base checkpoint there.")
    return base

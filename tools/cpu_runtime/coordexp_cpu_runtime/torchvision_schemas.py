# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Lets a CUDA build of torchvision be imported next to a CPU build of torch.

The C++ extension of such a torchvision cannot load, so its operators do not exist, and `import torchvision` fails
where it registers fake kernels for two of them ("operator torchvision::nms does not exist"). Without torchvision the
Qwen3-VL processors refuse to load. Declaring the two schemas is enough for the import: everything in torchvision that
is written in Python then works (`transforms.v2` among it), and its C++ operators stay unavailable.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch

OPERATORS = ("nms", "qnms")

# Dropping a Library removes its schemas, so it must live as long as the process.
_library: torch.library.Library | None = None


def torchvision_is_cuda_build() -> bool:
    """
    Tells whether the installed torchvision is a CUDA build, without importing it.

    Returns:
        `bool`: `True` if its `version.py` carries a local version such as `+cu130`; `False` for any other build, and
        where torchvision is not installed.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"\+cu\d", version) is not None


def register() -> None:
    """
    Declares `torchvision::nms` and `torchvision::qnms`, once, where torch has no CUDA and torchvision is built for it.

    Elsewhere torchvision's own extension loads and declares them itself, so nothing is done.
    """
    global _library
    if _library is not None or torch.version.cuda is not None or not torchvision_is_cuda_build():
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Lets several CPU processes resume from a checkpoint.

Accelerate calls the device of such a process "cpu:0" and passes the name to `torch.load(map_location=...)`, which
knows "cpu" only.
"""

import torch


def register() -> None:
    """Teaches `torch.load` that "cpu:0" is the CPU."""
    torch.serialization.register_package(
        11, lambda storage: None, lambda storage, location: storage if location == "cpu:0" else None
    )

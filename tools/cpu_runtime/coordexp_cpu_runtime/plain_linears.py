# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Lets vLLM take new weights on a CPU.

vLLM packs the weights of linear layers for oneDNN when it has loaded them, after which the layers have no parameter
that `load_weights` could write to. Without oneDNN they stay plain; a GPU has no such step.
"""


def register() -> None:
    """Called by vLLM in each of its processes, before it builds a model."""
    import vllm._custom_ops as ops

    ops._supports_onednn = False

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What vLLM loads from this package in each of its processes (entry point `vllm.general_plugins`)."""


def register() -> None:
    """Offers the gloo backend of weight transfer, which is imported only where it is chosen."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "gloo" not in WeightTransferEngineFactory._registry:  # vLLM calls this more than once
        WeightTransferEngineFactory.register_engine(
            "gloo", "coordexp_trl.generation.gloo_transfer", "GlooWeightTransferEngine"
        )

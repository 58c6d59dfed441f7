# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Memory of weights, gradients and AdamW for Qwen3-VL of three sizes, by what is trained.

Nothing is allocated: the models are built without data, and what `--dry_run` prints is computed from their parameters.
Activations come on top. Vision tower and projector are frozen, LoRA has rank 32 on all linear layers of the language
model, full training keeps float32 weights, everything else bfloat16 ones with float32 adapters.

    python benchmarks/training_memory.py
"""

import peft
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp_trl.adapters.rows import with_token_rows
from coordexp_trl.models import freeze_modules
from coordexp_trl.recipe import state_memory

LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VOCABULARY = 152_704  # with coordinate tokens
FIRST_BIN = 151_670
MODES = ("full", "LoRA", "rows", "LoRA + rows")
TEXT = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": VOCABULARY}
VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
SIZES = {
    "2B": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        VISION | {"deepstack_visual_indexes": [5, 11, 17]},
        True,
    ),
    "4B": (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        VISION | {"deepstack_visual_indexes": [5, 11, 17]},
        True,
    ),
    "8B": (
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
        | {"deepstack_visual_indexes": [8, 16, 24]},
        False,
    ),
}


def build(size: str, mode: str) -> torch.nn.Module:
    text, vision, tied = SIZES[size]
    config = Qwen3VLConfig(
        text_config=TEXT | text | {"tie_word_embeddings": tied},
        vision_config=vision | {"out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config).to(torch.float32 if mode == "full" else torch.bfloat16)
        model.tie_weights()
        adapters = peft.LoraConfig(r=32, target_modules=LINEAR) if "LoRA" in mode else None
        if "rows" in mode:
            adapters = with_token_rows(adapters, model, range(FIRST_BIN, FIRST_BIN + 1000))
        if adapters is not None:
            model = peft.get_peft_model(model, adapters)
    freeze_modules(model, ["vision_tower", "projector"])
    return model


def main() -> None:
    print("| model | trained | parameters that learn | weights | gradients | AdamW | together |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for size in SIZES:
        for mode in MODES:
            model = build(size, mode)
            learning = sum(value.numel() for value in model.parameters() if value.requires_grad)
            parts = [number / 2**30 for number in state_memory(model)]
            cells = " | ".join(f"{number:.2f}" for number in [*parts, sum(parts)])
            print(f"| {size} | {mode} | {learning / 1e6:,.1f} M | {cells} |")


if __name__ == "__main__":
    main()

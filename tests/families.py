# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tiny models of the families that have Qwen-VL's interface."""

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

_WIDTH = 64
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "num_hidden_layers": 4,  # the last of four layers has full attention
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_INTERLEAVED = {"head_dim": 32, "rope_parameters": {"mrope_section": [6, 5, 5], "mrope_interleaved": True}}
_PLAIN = {"rope_parameters": {"mrope_section": [2, 3, 3]}}
_QWEN = ("vision_start_token_id", "vision_end_token_id")
_GLM = ("image_start_token_id", "image_end_token_id")
# Configuration, model, options of the text part, of the vision part, and names of the tokens around an image
_FAMILIES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, _PLAIN, {"embed_dim": _WIDTH, "mlp_ratio": 2}, _QWEN),
    "qwen2_5_vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        _PLAIN,
        {"fullatt_block_indexes": [1], "window_size": 64, "out_hidden_size": _WIDTH},
        _QWEN,
    ),
    "qwen3_vl_moe": (
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
        _INTERLEAVED | _EXPERTS,
        {"deepstack_visual_indexes": [0], "num_position_embeddings": 256, "out_hidden_size": _WIDTH},
        _QWEN,
    ),
    "qwen3_5": (
        Qwen3_5Config,
        Qwen3_5ForConditionalGeneration,
        _INTERLEAVED | _LINEAR,
        {"num_position_embeddings": 256, "out_hidden_size": _WIDTH},
        _QWEN,
    ),
    "glm4v": (
        Glm4vConfig,
        Glm4vForConditionalGeneration,
        _PLAIN,
        {"image_size": 256, "out_hidden_size": _WIDTH},
        _GLM,
    ),
}
FAMILIES = tuple(_FAMILIES)


def build_family(model_type: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A random model for the tiny processor: patches of 16 pixels, four of which become one image token."""
    config_class, model_class, text, vision, around = _FAMILIES[model_type]
    token_id = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
        **text,
        "rope_parameters": rope | text["rope_parameters"],
    }
    vision = {
        "depth": 2,
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **vision,
    }
    tokens = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        **dict(zip(around, map(token_id, ("<|vision_start|>", "<|vision_end|>")), strict=True)),
    }
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    model = model_class(config).float().eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollout engines: prompts and images in, completions out."""

from coordexp_trl.generation.base import Rollout, RolloutEngine, SamplingConfig
from coordexp_trl.generation.image_features import ImageFeatures, feature_placeholders
from coordexp_trl.generation.prompts import DEFAULT_PROMPT, Prompt, PromptBuilder, check_prompt_ids
from coordexp_trl.generation.transformers_engine import TransformersEngine
from coordexp_trl.generation.vllm_config import VLLMConfig, check_vllm_sampling, require_vllm

__all__ = [
    "DEFAULT_PROMPT",
    "ImageFeatures",
    "Prompt",
    "PromptBuilder",
    "Rollout",
    "RolloutEngine",
    "SamplingConfig",
    "TransformersEngine",
    "VLLMConfig",
    "check_prompt_ids",
    "check_vllm_sampling",
    "feature_placeholders",
    "require_vllm",
]

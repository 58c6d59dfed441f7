# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Inference: images in, objects with scores out."""

from coordexp_trl.inference.config import InferenceConfig
from coordexp_trl.inference.predictor import Predictor
from coordexp_trl.inference.runner import run_inference

__all__ = ["InferenceConfig", "Predictor", "run_inference"]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-2: train a model on its own predictions.

    accelerate launch recipes/stage2.py --config recipes/stage2_tiny_cpu.yaml

Every field of the three dataclasses is an option: in the YAML file, or on the command line (which wins).
"""

from coordexp_trl import CoordExpStage2Config, CoordExpStage2Trainer
from coordexp_trl.recipe import run_recipe, train


def main() -> None:
    train(CoordExpStage2Trainer, CoordExpStage2Config)


if __name__ == "__main__":
    run_recipe(main)

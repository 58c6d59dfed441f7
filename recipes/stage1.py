# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-1: teach a model to write boxes as coordinate tokens.

    accelerate launch recipes/stage1.py --config recipes/stage1_qwen3vl_4b_full.yaml

Every field of the three dataclasses is an option: in the YAML file, or on the command line (which wins).
"""

from coordexp_trl import CoordExpStage1Config, CoordExpStage1Trainer
from coordexp_trl.recipe import run_recipe, train


def main() -> None:
    train(CoordExpStage1Trainer, CoordExpStage1Config)


if __name__ == "__main__":
    run_recipe(main)

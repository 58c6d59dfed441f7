# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The trainers and their configurations."""

from coordexp_trl.trainers.stage1_config import CoordExpStage1Config
from coordexp_trl.trainers.stage1_trainer import CoordExpStage1Trainer
from coordexp_trl.trainers.stage2_config import CoordExpStage2Config
from coordexp_trl.trainers.stage2_trainer import CoordExpStage2Trainer

__all__ = ["CoordExpStage1Config", "CoordExpStage1Trainer", "CoordExpStage2Config", "CoordExpStage2Trainer"]

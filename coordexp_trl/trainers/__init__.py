# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The trainers and their configurations."""

from coordexp_trl.trainers.stage2_config import CoordExpStage2Config
from coordexp_trl.trainers.stage2_trainer import CoordExpStage2Trainer

__all__ = ["CoordExpStage2Config", "CoordExpStage2Trainer"]

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Training vision-language models to detect, on their own predictions."""

from importlib import import_module

__version__ = "0.1.0"

# Imported on first use: `import coordexp_trl` and the command line stay fast.
_EXPORTS = {
    "CoordExpStage1Config": "coordexp_trl.trainers.stage1_config",
    "CoordExpStage1Trainer": "coordexp_trl.trainers.stage1_trainer",
    "CoordExpStage2Config": "coordexp_trl.trainers.stage2_config",
    "CoordExpStage2Trainer": "coordexp_trl.trainers.stage2_trainer",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

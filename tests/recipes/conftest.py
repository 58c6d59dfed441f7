# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A tiny model and six pictures for the recipes."""

from pathlib import Path

import pytest

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.tiny import create_tiny_checkpoint


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    """A folder with `model` and `shapes`. Shared: nothing may write into these two."""
    folder = tmp_path_factory.mktemp("recipe")
    create_tiny_checkpoint(folder / "model", seed=0, hidden_size=64, num_layers=2, vision_depth=2)
    create_shapes(folder / "shapes", 6, seed=0, image_size=64, max_objects=2)
    return folder

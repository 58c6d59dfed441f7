# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the inference tests: the shipped detector, and six pictures of four sizes that it knows."""

from pathlib import Path

import pytest

from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.inference import InferenceConfig, Predictor
from coordexp_trl.records import DetectionRecord, write_records
from coordexp_trl.tiny import DETECTOR_SCENES, detector_path

CROPS = ((0, 0, 96, 64), (0, 0, 128, 128), (0, 0, 64, 96), (10, 10, 74, 74), (0, 0, 128, 128), (30, 0, 126, 64))
CONFIG = InferenceConfig(prompt="Detect.", max_completion_length=48, dtype="float32")
IMAGE_IDS = (11, 7, 30, 2, 5, 100)


@pytest.fixture(scope="session")
def detector() -> Path:
    return Path(detector_path())


@pytest.fixture(scope="session")
def predictor(detector) -> Predictor:
    return Predictor(detector, config=CONFIG, device="cpu", batch_size=4)


@pytest.fixture(scope="session")
def pictures():
    drawn = [draw_shapes(seed=1, index=k, **DETECTOR_SCENES)[0] for k in range(len(CROPS))]
    return [picture.crop(crop) for picture, crop in zip(drawn, CROPS, strict=True)]


@pytest.fixture
def data(pictures, tmp_path) -> Path:
    """A file of records without objects, of the pictures."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    records = []
    for k, picture in enumerate(pictures):
        picture.save(folder / "images" / f"{k}.png")
        metadata = {"image_id": IMAGE_IDS[k]}
        records.append(DetectionRecord((f"images/{k}.png",), *picture.size, objects=(), metadata=metadata))
    write_records(records, folder / "data.jsonl")
    return folder / "data.jsonl"

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The checks of a checkpoint, in order."""

from collections.abc import Iterator

from coordexp_trl.doctor.check import Check, Step, run_steps
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.model_files import (
    check_config,
    check_dtype,
    check_folder,
    check_processor_files,
    check_structure,
    check_tokenizer,
    check_weights,
)
from coordexp_trl.doctor.model_rows import check_coordinate_rows, check_coordinates, check_rows, check_tied
from coordexp_trl.doctor.model_text import (
    check_chat_template,
    check_generation,
    check_image_size,
    check_round_trip,
    check_special_tokens,
)

STEPS = (
    Step("model.folder", (), check_folder),
    Step("model.config", ("model.folder",), check_config),
    Step("model.weights", ("model.folder",), check_weights),
    Step("model.structure", ("model.config", "model.weights"), check_structure),
    Step("model.dtype", ("model.config", "model.weights"), check_dtype),
    Step("model.tokenizer", ("model.folder",), check_tokenizer),
    Step("model.coordinates", ("model.tokenizer",), check_coordinates),
    Step("model.rows", ("model.tokenizer", "model.structure"), check_rows),
    Step("model.tied", ("model.structure",), check_tied),
    Step("model.coordinate_rows", ("model.coordinates", "model.rows"), check_coordinate_rows),
    Step("model.processor", ("model.tokenizer",), check_processor_files),
    Step("model.special_tokens", ("model.config", "model.processor"), check_special_tokens),
    Step("model.chat_template", ("model.processor",), check_chat_template),
    Step("model.image_size", ("model.config", "model.processor", "model.chat_template"), check_image_size),
    Step("model.round_trip", ("model.coordinates",), check_round_trip),
    Step("model.generation", ("model.folder",), check_generation),
)


def check_model(checkpoint: Checkpoint) -> Iterator[Check]:
    """Every check of a checkpoint; those that build on something broken are left out, and named."""
    yield from run_steps(STEPS, "model.skipped", checkpoint)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of coordinate tokens and of the matrices that hold a row for each."""

from collections.abc import Iterator

import torch

from coordexp_trl.coordinates import WILDCARD_TOKEN, CoordinateGrid, parse_coord_token
from coordexp_trl.doctor.check import Check, fail, ok, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.safetensors_files import SAMPLED_ROWS
from coordexp_trl.records import DEFAULT_GRID

# Freshly added rows have a tenth of the usual spread around the mean row
_NORM_RANGE = (0.02, 20.0)
_START_AGAIN = (
    "Start from a checkpoint without coordinate tokens, and add them: coordexp expand-vocab --src DIR --dst DIR"
)
_FRESH = "If they were just made, train; else start from `coordexp expand-vocab` on the original checkpoint."


def check_coordinates(checkpoint: Checkpoint) -> Iterator[Check]:
    """Is every coordinate token there, as one token, and how do their ids lie?"""
    name, folder = "model.coordinates", checkpoint.folder
    grid: CoordinateGrid = DEFAULT_GRID
    present = {k for k in map(parse_coord_token, checkpoint.tokenizer.get_vocab()) if k is not None}
    if not present:
        yield fail(
            name,
            f"the tokenizer has no coordinate token, need {grid.num_bins}",
            f"coordexp expand-vocab --src {folder} --dst DIR",
        )
        return
    if present != set(range(grid.num_bins)):
        missing = next((grid.token(k) for k in range(grid.num_bins) if k not in present), None)
        what = f"without {missing}" if missing else f"up to {grid.token(0).replace('0', str(max(present)))}"
        yield fail(
            name,
            f"{len(present)} coordinate tokens, {what}, need those of {grid.num_bins} bins",
            _START_AGAIN,
        )
        return
    try:
        vocabulary = checkpoint.vocabulary
    except ValueError as error:
        yield fail(
            name,
            str(error).split(". Add them")[0],
            f"They are ordinary entries that text is not tokenised to. {_START_AGAIN}",
        )
        return
    first, last = vocabulary.ids[[0, -1]].tolist()
    wildcard = "no wildcard" if vocabulary.wildcard_id is None else f"{WILDCARD_TOKEN} {vocabulary.wildcard_id}"
    found = f"{vocabulary.num_bins} bins, ids {first} to {last}, {wildcard}"
    if vocabulary.contiguous_start is None:
        yield warn(
            name,
            f"{found}: the ids are not consecutive in the order of the bins",
            "It works, if the checkpoint was trained so. Tools that count from the first id (id - "
            f"{first}) would mix up the bins; to be safe, add the tokens with coordexp expand-vocab.",
        )
    else:
        yield ok(name, f"{found}, consecutive")


def check_rows(checkpoint: Checkpoint) -> Iterator[Check]:
    """Length of the tokenizer against the rows of embedding and head, as stored, and against config.json."""
    name, structure = "model.rows", checkpoint.structure
    model = structure.model
    tokens = checkpoint.num_tokens
    embedding = structure.rows_of(model.get_input_embeddings())
    head = embedding if checkpoint.tied else structure.rows_of(model.get_output_embeddings())
    declared = checkpoint.config.get_text_config().vocab_size
    found = f"tokenizer {tokens}, embedding {embedding}, head {'tied' if checkpoint.tied else head}, config {declared}"
    if tokens > min(embedding, head):
        yield fail(
            name,
            f"{found}: {tokens - min(embedding, head)} tokens have no row",
            "Use tokenizer and weights of the same checkpoint, or make one: coordexp expand-vocab --src DIR --dst DIR "
            "with the original.",
        )
    elif not embedding == head == declared:
        yield fail(
            name,
            f"{found}: they must be equal",
            "Loading fails, or draws the matrix anew. Set vocab_size in config.json (text_config) to the rows that "
            "are stored, or use the config.json of these weights.",
        )
    else:
        yield ok(name, found)


def check_tied(checkpoint: Checkpoint) -> Iterator[Check]:
    """The flag that ties head and embedding, against what is stored."""
    name, head = "model.tied", checkpoint.head
    outer, inner = checkpoint.config.tie_word_embeddings, checkpoint.config.get_text_config().tie_word_embeddings
    if checkpoint.embedding is None and not (outer and head is not None):
        yield fail(name, "no embedding is stored", "Download the checkpoint again.")
    elif not outer and head is None:
        yield fail(
            name,
            "tie_word_embeddings is false, but no head is stored: it would be drawn at random",
            "Set tie_word_embeddings to true in config.json, if the original is tied; else download it again.",
        )
    elif outer and not checkpoint.tied:
        yield warn(
            name,
            "tie_word_embeddings is true, but a head that differs from the embedding is stored: transformers uses it, "
            "vLLM does not",
            "Set tie_word_embeddings to false in config.json, if the model was trained with a head of its own; else "
            "remove lm_head.weight.",
        )
    elif outer != inner:
        yield warn(
            name,
            f"config.json says tie_word_embeddings = {outer}, its text_config {inner}",
            f"Set both to {outer}, which transformers goes by; other programs may read the other one.",
        )
    else:
        yield ok(name, "head tied to the embedding" if outer else "a head of its own")


def check_coordinate_rows(checkpoint: Checkpoint) -> Iterator[Check]:
    """The coordinate tokens' rows beside those of other tokens, in each stored matrix."""
    ids = checkpoint.vocabulary.ids.tolist()
    known = set(ids)
    others = [index for index in range(checkpoint.num_tokens) if index not in known]
    others = others[:: max(1, len(others) // SAMPLED_ROWS)]
    matrices = {"embedding": checkpoint.embedding}
    if not checkpoint.tied:
        matrices["head"] = checkpoint.head
    for title, tensor in matrices.items():
        if tensor is not None:
            yield judge_rows(title, tensor.rows(sorted(ids)), tensor.rows(others))


def judge_rows(title: str, rows: torch.Tensor, others: torch.Tensor) -> Check:
    """
    Args:
        title (`str`):
            Name of the matrix.
        rows (`torch.Tensor`):
            Rows of the coordinate tokens, `(K, hidden_size)`.
        others (`torch.Tensor`):
            Rows of other tokens, `(N, hidden_size)`.

    Returns:
        [`Check`]
    """
    name = "model.coordinate_rows"
    broken = int((~rows.isfinite()).any(1).sum())
    if broken:
        return fail(
            name, f"{title}: {broken} rows are not finite", "A run diverged: go back to an earlier checkpoint."
        )
    norms, usual = rows.norm(dim=1), others.norm(dim=1).median()
    found = f"{title}: median norm {norms.median():.3g}, other tokens {usual:.3g}"
    distinct = len(rows.unique(dim=0))
    if distinct < len(rows):
        return warn(name, f"{found}; only {distinct} of {len(rows)} rows differ", f"Equal rows learn alike. {_FRESH}")
    if not _NORM_RANGE[0] * usual <= norms.median() <= _NORM_RANGE[1] * usual:
        return warn(name, f"{found}: far apart", f"Such rows learn badly. {_FRESH}")
    return ok(name, f"{found}; all {len(rows)} differ")

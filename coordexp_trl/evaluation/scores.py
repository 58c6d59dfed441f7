# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Confidence of generated objects: how likely the model itself found the tokens that it wrote."""

import math
from collections.abc import Sequence

from coordexp_trl.protocols import ParsedCompletion


def object_scores(parsed: ParsedCompletion, logprobs: Sequence[float]) -> list[float]:
    """
    Scores the objects of a completion by the probabilities of their own tokens:

        (p_x1 · p_y1 · p_x2 · p_y2)^(1/4) · mean of p over the tokens of the description

    For a polygon the geometric mean is that of all its coordinates.
    A token on the border of the description counts as one of its tokens.

    Args:
        parsed ([`~coordexp_trl.protocols.ParsedCompletion`]):
            The completion, of which `objects` and `length` are used.
        logprobs (`Sequence[float]`):
            Natural log-probability of each token of the completion, `-inf` allowed; those of an end token and of what
            follows it are ignored.

    Returns:
        `list[float]`: a score in `[0, 1]` for each of `parsed.objects`.

    Raises:
        `ValueError`: if there are fewer log-probabilities than tokens.
    """
    if len(logprobs) < parsed.length:
        raise ValueError(
            f"logprobs: {len(logprobs)} log-probabilities for {parsed.length} tokens. Pass those of the parsed "
            "completion, see `SamplingConfig.logprobs`."
        )
    scores = []
    for item in parsed.objects:
        start, end = item.desc_span
        box = math.exp(sum([logprobs[slot] for slot in item.slots]) / len(item.slots))
        desc = sum([math.exp(logprobs[position]) for position in range(start, end)]) / (end - start)
        scores.append(box * desc)
    return scores

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Completions → objects in pixels with score and standard deviation."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.scores import object_scores
from coordexp_trl.evaluation.uncertainty import coordinate_moments, coordinate_ranks, edge_coordinates
from coordexp_trl.generation import Rollout
from coordexp_trl.matching import normalize_desc
from coordexp_trl.predictions import ImagePrediction, PredictedObject
from coordexp_trl.protocols import ParsedCompletion, Protocol
from coordexp_trl.records import enclosing_box

NOT_ASKED = "not_asked"  # drop reason: an object of another class than the prompt named
DECIMALS = 3  # of a pixel


class CompletionReader:
    """
    Reads what a model wrote about an image.

    Args:
        protocol ([`~coordexp_trl.protocols.Protocol`]):
            Protocol of the completions.
        end_token_id (`int`):
            Token that ends a completion.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer, for the text.
        expectation (`bool`, *optional*, defaults to `False`):
            Whether a coordinate is the mean of its distribution instead of the bin that was written.
    """

    def __init__(
        self,
        protocol: Protocol,
        end_token_id: int,
        tokenizer: PreTrainedTokenizerBase,
        expectation: bool = False,
    ):
        self.protocol = protocol
        self.end_token_id = end_token_id
        self.tokenizer = tokenizer
        self.expectation = expectation
        self.grid = CoordinateGrid(protocol.vocabulary.num_bins)
        self.coord_ids = protocol.vocabulary.ids.numpy()

    def read(
        self,
        rollouts: Sequence[Rollout],
        class_groups: Sequence[Sequence[str] | None],
        image: str,
        width: int,
        height: int,
        image_id: int | str | None = None,
    ) -> ImagePrediction:
        """
        Joins the completions of one image. What is malformed is dropped and counted, never an error.

        Args:
            rollouts (`Sequence[Rollout]`):
                The completions.
            class_groups (`Sequence[Sequence[str] | None]`):
                Classes that each was asked for; objects of others are dropped as `not_asked`.
            image (`str`):
                Path of the image, as the prediction names it.
            width (`int`), height (`int`):
                Size of the image in pixels.
            image_id (`int` or `str`, *optional*):
                Id of the image.

        Returns:
            [`ImagePrediction`]: The prediction.
        """
        objects: list[PredictedObject] = []
        dropped: Counter[str] = Counter()
        for rollout, classes in zip(rollouts, class_groups, strict=True):
            parsed = rollout.parse(self.protocol, self.end_token_id)
            dropped.update(parsed.dropped)
            asked = None if classes is None else set(map(normalize_desc, classes))
            for item in self._objects(rollout, parsed, np.array([width, height])):
                if asked is None or normalize_desc(item.desc) in asked:
                    objects.append(item)
                else:
                    dropped[NOT_ASKED] += 1
        return ImagePrediction(
            image=image,
            width=width,
            height=height,
            objects=tuple(objects),
            text="\n".join(self.tokenizer.decode(item.completion_ids) for item in rollouts),
            finish_reason="length" if any(item.finish_reason == "length" for item in rollouts) else "stop",
            dropped=dict(dropped),
            image_id=image_id,
        )

    def _objects(self, rollout: Rollout, parsed: ParsedCompletion, size: np.ndarray) -> list[PredictedObject]:
        scores = [None] * len(parsed.objects)
        if rollout.logprobs is not None:
            # A broken model's probabilities are NaN: its output ranks last, and is no error
            scores = [0.0 if math.isnan(score) else score for score in object_scores(parsed, rollout.logprobs)]
        means = stds = ranks = None
        if rollout.coord_logits is not None:
            means, stds = (part.numpy() for part in coordinate_moments(rollout.coord_logits, self.grid))
            ranks = coordinate_ranks(rollout.completion_ids, self.coord_ids)
        found = []
        for item, score in zip(parsed.objects, scores, strict=True):
            scale = np.resize(size, len(item.bins))
            values = self.grid.bins_to_unit(item.bins)
            std = None
            if ranks is not None:
                rows = ranks[list(item.slots)]
                if self.expectation:
                    values = np.where(np.isnan(means[rows]), values, means[rows])
                edges = edge_coordinates(values)
                std = _rounded((stds[rows] * scale)[edges])
            pixels = _rounded(values * scale)
            found.append(
                PredictedObject(
                    desc=item.desc,
                    bbox_2d=tuple(enclosing_box(pixels)),
                    score=score,
                    std=None if std is None or any(map(math.isnan, std)) else std,
                    poly=pixels if item.is_polygon else None,
                )
            )
        return found


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.round(values.astype(np.float64), DECIMALS).tolist())

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What a set of rollouts looked like: counts that add up over images and processes, and the metrics made of them."""

from collections import Counter
from dataclasses import dataclass, field

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.evaluation.f1 import DetectionCounts, count_duplicates
from coordexp_trl.generation import Rollout
from coordexp_trl.matching import Match
from coordexp_trl.protocols import ParsedCompletion


@dataclass
class RolloutStats:
    """
    Additive counts over rollouts.

    Attributes:
        counts ([`DetectionCounts`]):
            True and false positives, misses, IoU of the matches, duplicates.
        rollouts (`int`):
            Number of completions.
        whole (`int`):
            Completions that ended by themselves and parsed without losing anything.
        cut (`int`):
            Completions cut by the length limit.
        tokens (`int`):
            Completion tokens.
        longest (`int`):
            Length of the longest completion.
        invalid_boxes (`int`):
            Parsed boxes of zero area or with swapped corners, and polygons without extent in a direction.
        dropped (`Counter`):
            Malformed objects by reason.
    """

    counts: DetectionCounts = field(default_factory=DetectionCounts)
    rollouts: int = 0
    whole: int = 0
    cut: int = 0
    tokens: int = 0
    longest: int = 0
    invalid_boxes: int = 0
    dropped: Counter = field(default_factory=Counter)

    @classmethod
    def of(cls, rollout: Rollout, parsed: ParsedCompletion, counts: DetectionCounts) -> "RolloutStats":
        """Returns the counts of one completion."""
        cut = rollout.finish_reason == "length"
        return cls(
            counts=counts,
            rollouts=1,
            whole=int(not cut and not parsed.dropped and not parsed.truncated),
            cut=int(cut),
            tokens=len(rollout.completion_ids),
            longest=len(rollout.completion_ids),
            invalid_boxes=sum(not item.valid_geometry for item in parsed.objects),
            dropped=Counter(parsed.dropped),
        )

    def __add__(self, other: "RolloutStats") -> "RolloutStats":
        return RolloutStats(
            counts=self.counts + other.counts,
            rollouts=self.rollouts + other.rollouts,
            whole=self.whole + other.whole,
            cut=self.cut + other.cut,
            tokens=self.tokens + other.tokens,
            longest=max(self.longest, other.longest),
            invalid_boxes=self.invalid_boxes + other.invalid_boxes,
            dropped=self.dropped + other.dropped,
        )

    def metrics(self) -> dict[str, float]:
        """
        Returns:
            `dict[str, float]`: `parse_rate` is the share of completions that ended by themselves and lost nothing in
            parsing; `dropped/*` counts malformed objects per completion.
        """
        total = max(self.rollouts, 1)
        counts = self.counts
        return {
            "objects_predicted": (counts.tp + counts.fp) / total,
            "objects_ground_truth": (counts.tp + counts.fn) / total,
            "objects_missed": counts.fn / total,
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "mean_iou": counts.mean_iou,
            "duplicate_rate": counts.duplicate_rate,
            "parse_rate": self.whole / total,
            "truncation_rate": self.cut / total,
            "invalid_boxes": self.invalid_boxes / total,
            "mean_length": self.tokens / total,
            "max_length": float(self.longest),
            **{f"dropped/{reason}": count / total for reason, count in sorted(self.dropped.items())},
        }


def matched_counts(
    parsed: ParsedCompletion, match: Match, num_ground_truth: int, grid: CoordinateGrid
) -> DetectionCounts:
    """
    Counts at the matching gate, as training sees them (a pair may differ in description).

    Args:
        parsed ([`ParsedCompletion`]):
            Predictions.
        match ([`Match`]):
            Their pairs.
        num_ground_truth (`int`):
            Number of ground-truth objects.
        grid ([`CoordinateGrid`]):
            Coordinate grid.

    Returns:
        [`DetectionCounts`]: Counts of one rollout.
    """
    found = len(match.pairs)
    return DetectionCounts(
        tp=found,
        fp=len(parsed.objects) - found,
        fn=num_ground_truth - found,
        iou_sum=sum(match.ious),
        duplicates=count_duplicates(
            parsed.boxes(grid),
            [item.desc for item in parsed.objects],
            [i for i, _ in match.pairs],
        ),
        images=1,
    )

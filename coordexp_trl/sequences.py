# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is supervised: rollout + matches + ground truth → the token sequences of the teacher-forced forward.

Three modes, each a function of the same inputs:

* `two_sequence`: the rollout itself, supervised only at the slots of matched objects (self-context), and the ground
  truth re-ordered to follow the rollout, supervised everywhere; missed objects come last or where the canonical order
  has them.
* `appended`: one sequence, the rollout up to its last complete object, then the missed objects, close and end.
* `expert`: as `appended`, and the rollout's own tokens are labelled with what an expert would write in that state
  (DAgger: Ross et al., 2011, https://huggingface.co/papers/1011.0686), the expert being the set of objects not yet
  written.

A matched polygon is asked for the points of the ground truth's outline that optimal transport assigns to its vertices
(see [`~polygons.outline_targets`]), and its outermost coordinates for the ground truth's box.

All three cut the text at coordinate slots. Coordinate tokens are special tokens and always split the text, so the
tokens between two slots ("gap") never depend on what stands beyond them, and a canonical continuation can start right
after any slot whatever token spans the structure characters there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.matching import Match
from coordexp_trl.polygons import as_points, extremes, vertex_targets
from coordexp_trl.protocols import ParsedCompletion, Protocol
from coordexp_trl.records import DetectionObject, DetectionRecord, enclosing_box

MODES = ("two_sequence", "appended", "expert")
EXTRA_POLICIES = ("expert", "neutral")
MISSED_ORDERS = ("last", "canonical")
ORDERS = ("sorted", "random", "as_is")
GEOMETRIES = ("box", "native")


class TextTarget(NamedTuple):
    """The token wanted at `position` (full-vocabulary cross-entropy)."""

    position: int
    token: int
    weight: float


class SlotTarget(NamedTuple):
    """The bin wanted at the coordinate slot `position`; a weight of 0 keeps the slot for its box alone."""

    position: int
    bin: int
    weight: float


class BoxTarget(NamedTuple):
    """The box (xyxy in [0, 1]) wanted from the expectations at four slots; of a polygon the outermost ones."""

    slots: tuple[int, int, int, int]
    box: tuple[float, float, float, float]
    weight: float


@dataclass
class TrainingSequence:
    """
    Completion tokens and what is asked of them. Positions count from the first completion token; the prediction for
    position `p` comes from the hidden state of the token before it.

    Attributes:
        ids (`list[int]`):
            Completion token ids, without the prompt.
        text (`list[TextTarget]`):
            Supervised text tokens.
        slots (`list[SlotTarget]`):
            Coordinate slots, every slot of every box among them.
        boxes (`list[BoxTarget]`):
            Supervised boxes.
    """

    ids: list[int]
    text: list[TextTarget] = field(default_factory=list)
    slots: list[SlotTarget] = field(default_factory=list)
    boxes: list[BoxTarget] = field(default_factory=list)


@dataclass(frozen=True)
class GroundTruthObject:
    """
    One object to be written: also accepted by [`Protocol`] wherever an object is encoded.

    Attributes:
        desc (`str`):
            Description.
        bins (`tuple[int, ...]`):
            Box in bins, or polygon x1, y1, x2, y2, ... in bins.
        box (`tuple[float, float, float, float]`):
            Exact box, xyxy in [0, 1], not quantised; of a polygon the enclosing one.
    """

    desc: str
    bins: tuple[int, ...]
    box: tuple[float, float, float, float]

    @property
    def is_polygon(self) -> bool:
        """Whether the object is written as a polygon."""
        return len(self.bins) > 4


def ground_truth(
    record: DetectionRecord,
    grid: CoordinateGrid,
    order: str = "sorted",
    seed: str | int = 0,
    geometry: str = "box",
) -> list[GroundTruthObject]:
    """
    The objects of a record as they are to be written.

    Args:
        record ([`DetectionRecord`]):
            Record with objects in pixels or bins.
        grid ([`CoordinateGrid`]):
            Coordinate grid.
        order (`str`, *optional*, defaults to `"sorted"`):
            `"sorted"` is the canonical order (y1, x1, y2, x2, description), with which nothing depends on the order in
            which an annotator listed them; `"random"` shuffles the canonical order; `"as_is"` keeps the record's own.
        seed (`str` or `int`, *optional*, defaults to `0`):
            Seed of the random order.
        geometry (`str`, *optional*, defaults to `"box"`):
            `"box"` writes every object as a box, a polygon as the enclosing one; `"native"` writes polygons as such,
            unless all vertices fall into one row or column of bins.

    Returns:
        `list[GroundTruthObject]`: The objects in that order.
    """
    assert order in ORDERS and geometry in GEOMETRIES, (order, geometry)
    objects = list(record.objects if order == "as_is" else record.sorted_objects(grid))
    if order == "random":
        random.Random(seed).shuffle(objects)
    size = (record.width, record.height)
    return [
        GroundTruthObject(
            item.desc,
            (_polygon_bins(item, *size, grid) if geometry == "native" and item.is_polygon else None)
            or item.box_bins(*size, grid),
            item.unit_box(*size, grid),
        )
        for item in objects
    ]


def _polygon_bins(item: DetectionObject, width: int, height: int, grid: CoordinateGrid) -> tuple[int, ...] | None:
    """The vertices of a polygon in bins, or `None` if nothing but their box is left on the grid."""
    bins = item.bins or tuple(grid.points_to_bins(as_points(item.poly), width, height).ravel().tolist())
    left, top, right, bottom = enclosing_box(bins)
    return bins if right > left and bottom > top else None


@dataclass(frozen=True)
class SequenceBuilder:
    """
    Turns one rollout into its training sequences.

    Args:
        protocol ([`Protocol`]):
            Text protocol of the completions.
        eos_token_id (`int`):
            Token that ends a completion.
        mode (`str`, *optional*, defaults to `"two_sequence"`):
            `"two_sequence"`, `"appended"` or `"expert"`.
        eos_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the end token's cross-entropy.
        self_context_coord_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the coordinate terms at the slots of matched objects in the rollout's own tokens; `0` leaves
            geometry alone there.
        own_token_weight (`float`, *optional*, defaults to `0.5`):
            Weight of the expert's labels on the rollout's own text tokens (`mode="expert"`).
        extra_policy (`str`, *optional*, defaults to `"expert"`):
            What is asked of unmatched predictions in `mode="expert"`: `"expert"` labels their opening with what
            should stand there instead, `"neutral"` leaves them unsupervised.
        missed_order (`str`, *optional*, defaults to `"last"`):
            Where the re-ordered ground truth has the missed objects (`mode="two_sequence"`): `"last"` puts them after
            the matched ones, `"canonical"` puts each before the first object that follows it in canonical order.
        self_context (`bool`, *optional*, defaults to `True`):
            Whether `mode="two_sequence"` has the rollout's own sequence; without it the ground truth follows the
            rollout's order, and half of the forward is saved.
    """

    protocol: Protocol
    eos_token_id: int
    mode: str = "two_sequence"
    eos_weight: float = 1.0
    self_context_coord_weight: float = 1.0
    own_token_weight: float = 0.5
    extra_policy: str = "expert"
    missed_order: str = "last"
    self_context: bool = True

    def __post_init__(self):
        assert self.mode in MODES and self.extra_policy in EXTRA_POLICIES, (self.mode, self.extra_policy)
        assert self.missed_order in MISSED_ORDERS, self.missed_order

    def build(
        self, ids: Sequence[int], parsed: ParsedCompletion, match: Match, objects: Sequence[GroundTruthObject]
    ) -> list[TrainingSequence]:
        """
        Args:
            ids (`Sequence[int]`):
                Completion token ids of the rollout.
            parsed ([`ParsedCompletion`]):
                What the protocol read in `ids`.
            match ([`Match`]):
                Pairs of (index in `parsed.objects`, index in `objects`).
            objects (`Sequence[GroundTruthObject]`):
                Ground truth in canonical order, see [`ground_truth`].

        Returns:
            `list[TrainingSequence]`: One or two sequences. A rollout without matches (an unparseable one, say) leaves
            supervision on the ground truth alone.
        """
        if self.mode == "two_sequence":
            sequences = [self.write([objects[j] for j in self._reordered(match)])]
            if match.pairs and self.self_context:
                sequences.append(self._self_context(ids, parsed, match, objects))
            return sequences
        missed = [objects[j] for j in match.unmatched_ground_truth]
        sequence = self._prefix(ids, parsed)
        self._supervise_matched(sequence, parsed, match, objects)
        if self.mode == "expert":
            self._label_own_tokens(sequence, parsed, match, objects)
        after_polygon = bool(parsed.objects) and parsed.objects[-1].is_polygon
        return [self._written_by_expert(sequence, missed, after_polygon)]

    def write(self, objects: Sequence[GroundTruthObject]) -> TrainingSequence:
        """
        Args:
            objects (`Sequence[GroundTruthObject]`):
                Ground truth in the order in which it is to be written.

        Returns:
            `TrainingSequence`: The ground truth alone, supervised everywhere.
        """
        return self._written_by_expert(TrainingSequence([]), objects)

    def _reordered(self, match: Match) -> list[int]:
        """The indices of the ground truth: matched objects in the rollout's order, and the missed ones."""
        order = [j for _, j in match.pairs]
        for j in match.unmatched_ground_truth:
            later = (place for place, other in enumerate(order) if other > j)
            order.insert(len(order) if self.missed_order == "last" else next(later, len(order)), j)
        return order

    def _self_context(self, ids, parsed, match, objects) -> TrainingSequence:
        # Nothing is asked beyond the last matched object, so nothing beyond it is run forward.
        last_slot = max(parsed.objects[i].slots[-1] for i, _ in match.pairs)
        sequence = TrainingSequence(list(ids[: last_slot + 1]))
        self._supervise_matched(sequence, parsed, match, objects)
        return sequence

    def _prefix(self, ids, parsed) -> TrainingSequence:
        end = parsed.objects[-1].slots[-1] + 1 if parsed.objects else 0
        return TrainingSequence(list(ids[:end]))

    def _supervise_matched(self, sequence, parsed, match, objects) -> None:
        grid = CoordinateGrid(self.protocol.vocabulary.num_bins)
        for i, j in match.pairs:
            predicted, wanted, slots = parsed.objects[i], objects[j].bins, parsed.objects[i].slots
            if predicted.is_polygon:
                targets = vertex_targets(predicted.bins, wanted, grid)
                box_slots = tuple(slots[k] for k in extremes(predicted.bins))
            else:
                targets, box_slots = dict(enumerate(enclosing_box(wanted))), slots
            sequence.slots += [
                SlotTarget(slots[k], k_bin, self.self_context_coord_weight) for k, k_bin in targets.items()
            ]
            sequence.boxes.append(BoxTarget(box_slots, objects[j].box, 1.0))

    def _written_by_expert(self, sequence: TrainingSequence, objects, after_polygon: bool = False) -> TrainingSequence:
        """Appends `objects`, the close and the end token, all supervised."""
        first = not sequence.ids
        for item in objects:
            gap = self.protocol.gap_ids(item.desc, first, polygon=item.is_polygon, after_polygon=after_polygon)
            self._append_text(sequence, gap)
            for k, wanted in enumerate(item.bins):
                if k:
                    self._append_text(sequence, self.protocol.separator_ids)
                sequence.slots.append(SlotTarget(len(sequence.ids), wanted, 1.0))
                sequence.ids.append(int(self.protocol.vocabulary.ids[wanted]))
            first, after_polygon = False, item.is_polygon
        self._append_text(sequence, self.protocol.gap_ids(None, first, after_polygon=after_polygon))
        self._append_text(sequence, [self.eos_token_id], self.eos_weight)
        return sequence

    def _append_text(self, sequence: TrainingSequence, tokens: Sequence[int], weight: float = 1.0) -> None:
        start = len(sequence.ids)
        sequence.ids += tokens
        sequence.text += [TextTarget(start + k, token, weight) for k, token in enumerate(tokens)]

    def _label_own_tokens(self, sequence, parsed, match, objects) -> None:
        target_of = dict(match.pairs)
        later = [objects[j] for _, j in match.pairs]  # matched objects that the rollout has still to write
        missed = [objects[j] for j in match.unmatched_ground_truth]
        gap_start, after_polygon = 0, False
        for i, predicted in enumerate(parsed.objects):
            first = gap_start == 0
            following = later.pop(0) if i in target_of else next(iter(missed or later), None)
            if i not in target_of and self.extra_policy == "neutral":
                wanted = []
            elif following is not None:
                polygon = following.is_polygon
                wanted = self.protocol.gap_ids(following.desc, first, polygon=polygon, after_polygon=after_polygon)
            else:
                wanted = [*self.protocol.gap_ids(None, first, after_polygon=after_polygon), self.eos_token_id]
            self._label(sequence, gap_start, predicted.slots[0], wanted)
            if i in target_of:
                for slot, next_slot in pairwise(predicted.slots):
                    self._label(sequence, slot + 1, next_slot, self.protocol.separator_ids)
            gap_start, after_polygon = predicted.slots[-1] + 1, predicted.is_polygon

    def _label(self, sequence: TrainingSequence, start: int, stop: int, wanted: Sequence[int]) -> None:
        # After the first token that differs the state is no longer the expert's.
        for position, token in zip(range(start, stop), wanted, strict=False):
            sequence.text.append(TextTarget(position, token, self.own_token_weight))
            if sequence.ids[position] != token:
                break

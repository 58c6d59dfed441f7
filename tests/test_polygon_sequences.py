# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is supervised where rollout or ground truth hold polygons."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.losses.terms import Supervision, count_units
from coordexp_trl.matching import MatchingConfig, match_objects
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.sequences import SequenceBuilder, ground_truth
from coordexp_trl.tiny import build_tiny_tokenizer

GRID = CoordinateGrid()
PROTOCOLS = ("tags", "json")
MODES = ("two_sequence", "appended", "expert")
KITE = (100, 110, 300, 120, 280, 400, 180, 300)  # its box: 100, 110, 300, 400
NEAR_KITE = (180, 310, 105, 110, 300, 125, 280, 400)  # begins elsewhere
KITE_BOX = (100, 110, 300, 400)
LEAF = (500, 510, 800, 520, 640, 810)
CAT = (500, 510, 800, 810)
WEIGHT = 0.75


@cache
def protocol_of(name: str):
    return get_protocol(name, build_tiny_tokenizer())


def items(*objects) -> list[DetectionObject]:
    return [DetectionObject(desc=desc, bins=bins) for desc, bins in objects]


def truth(*objects):
    record = DetectionRecord(images=("a.png",), width=640, height=480, objects=items(*objects))
    return ground_truth(record, GRID, geometry="native")


def build(protocol, ids, objects, mode, min_iou=0.3):
    parsed = protocol.parse(ids)
    match = match_objects(
        GRID.bins_to_unit(parsed.boxes(GRID)),
        [item.box for item in objects],
        [item.desc for item in parsed.objects],
        [item.desc for item in objects],
        MatchingConfig(min_iou=min_iou),
    )
    builder = SequenceBuilder(protocol, protocol.tokenizer.eos_token_id, mode, self_context_coord_weight=WEIGHT)
    return builder.build(ids, parsed, match, objects)


def unit(box):
    return tuple(k / 999 for k in box)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_written_ground_truth_is_supervised_everywhere(name):
    protocol, objects = protocol_of(name), truth(("kite", KITE), ("cat", CAT), ("leaf", LEAF), ("kite", LEAF))
    end = protocol.tokenizer.eos_token_id
    sequence = SequenceBuilder(protocol, end).write(objects)
    assert sequence.ids == [*protocol.encode(objects), end]
    assert [target.bin for target in sequence.slots] == [k for item in objects for k in item.bins]
    assert sum(item.is_polygon for item in objects) == 3
    positions = [target.position for target in (*sequence.text, *sequence.slots)]
    assert sorted(positions) == list(range(len(sequence.ids)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_matched_polygon_is_asked_for_the_outline_and_the_box(name):
    protocol, objects = protocol_of(name), truth(("kite", KITE))
    start = (KITE[6:] + KITE)[:8]  # the same polygon from its last vertex on
    (written, own) = build(protocol, protocol.encode(items(("kite", start))), objects, "two_sequence")
    (slots,) = protocol.encode_with_slots(items(("kite", start))).slots
    assert [(target.position, target.bin, target.weight) for target in own.slots] == [
        (slot, k, WEIGHT) for slot, k in zip(slots, start, strict=True)
    ]
    # left, top, right and bottom of the box stand at these places of `start`
    assert [start[k] for k in (2, 3, 4, 7)] == list(KITE_BOX)
    (box,) = own.boxes
    assert (box.slots, box.box) == (tuple(slots[k] for k in (2, 3, 4, 7)), unit(KITE_BOX))
    assert [target.bin for target in written.slots] == list(KITE)
    # A moved one: nearer than it was, at every coordinate
    _, own = build(protocol, protocol.encode(items(("kite", NEAR_KITE))), objects, "two_sequence")
    assert all(abs(target.bin - k) <= 3 for target, k in zip(own.slots, start, strict=True))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("mode", MODES)
def test_boxes_and_polygons_match_by_their_boxes(name, mode):
    protocol = protocol_of(name)
    objects = truth(("kite", KITE), ("cat", CAT))  # a polygon, a box
    rollout = items(("kite", (103, 112, 290, 395)), ("cat", LEAF))  # a box, a polygon
    ids, slots = protocol.encode_with_slots(rollout)
    own = build(protocol, ids, objects, mode)[-1]
    matched = {target.position: target.bin for target in own.slots if target.weight == WEIGHT}
    box_of_kite = dict(zip(slots[0], KITE_BOX, strict=True))
    leaf = slots[1]  # only its outermost coordinates: left, top, right, bottom
    outermost = (leaf[0], leaf[1], leaf[2], leaf[5])
    assert matched == box_of_kite | dict(zip(outermost, CAT, strict=True))
    assert [(box.slots, box.box) for box in own.boxes] == [(slots[0], unit(KITE_BOX)), (outermost, unit(CAT))]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("mode", ["appended", "expert"])
@pytest.mark.parametrize("last", [KITE, KITE_BOX])
def test_the_continuation_closes_what_was_written(name, mode, last):
    protocol, tokenizer = protocol_of(name), protocol_of(name).tokenizer
    objects = truth(("kite", last), ("leaf", LEAF))
    (sequence,) = build(protocol, protocol.encode(items(("kite", last))), objects, mode)
    assert sequence.ids == [*protocol.encode(objects), tokenizer.eos_token_id]
    (sequence,) = build(protocol, protocol.encode(items(("kite", last))), objects[:1], mode)
    assert sequence.ids == [*protocol.encode(objects[:1]), tokenizer.eos_token_id]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_expert_asks_for_the_kind_of_the_ground_truth(name):
    protocol = protocol_of(name)
    boxes, polygons = (items(("kite", KITE_BOX), ("kite", CAT)), items(("kite", KITE), ("kite", LEAF)))
    for rollout, objects in ((boxes, polygons), (polygons, boxes)):
        ids, slots = protocol.encode_with_slots(rollout)
        wanted = truth(*((item.desc, item.bins) for item in objects))
        (sequence,) = build(protocol, ids, wanted, "expert")
        own = {target.position: target.token for target in sequence.text if target.position < slots[-1][-1]}
        polygon = objects[0].is_polygon
        for gap_start, slot, gap in (
            (0, slots[0][0], protocol.gap_ids("kite", True, polygon=polygon)),
            (slots[0][-1] + 1, slots[1][0], protocol.gap_ids("kite", False, polygon, after_polygon=not polygon)),
        ):
            written = ids[gap_start:slot]
            differs = next(k for k in range(len(gap)) if written[k] != gap[k])
            labels = [own.get(gap_start + k) for k in range(len(written))]
            assert labels == [*gap[: differs + 1], *[None] * (len(written) - differs - 1)]
        # The same kind: every token of the rollout is its own label
        (sequence,) = build(protocol, ids, truth(*((item.desc, item.bins) for item in rollout)), "expert")
        assert all(sequence.ids[target.position] == target.token for target in sequence.text)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("mode", MODES)
def test_a_polygon_that_was_cut_is_left_out(name, mode):
    protocol, objects = protocol_of(name), truth(("kite", KITE), ("leaf", LEAF))
    ids, slots = protocol.encode_with_slots(items(("kite", KITE), ("leaf", LEAF)))
    sequences = build(protocol, ids[: slots[1][3]], objects, mode)
    complete = sequences[0]
    assert complete.ids == [*protocol.encode(objects), protocol.tokenizer.eos_token_id]
    assert max(target.position for target in sequences[-1].slots if target.weight == WEIGHT) == slots[0][-1]


vertices = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=6)
shapes = st.one_of(
    vertices.map(lambda points: tuple(333 * k for point in points for k in point)),
    st.sampled_from([(0, 0, 999, 999), (0, 333, 333, 666), (5, 5, 5, 5, 5, 5)]),
)
objects_of = st.lists(st.tuples(st.sampled_from(["kite", "cat"]), shapes), max_size=4)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(written=objects_of, objects=objects_of, cut=st.integers(0, 40), gate=st.sampled_from([0.0, 0.3]))
def test_what_always_holds(name, mode, written, objects, cut, gate):
    protocol, wanted = protocol_of(name), truth(*objects)
    ids = protocol.encode(items(*written))
    ids = ids[: len(ids) - cut]
    sequences = build(protocol, ids, wanted, mode, gate)
    coord_ids = set(protocol.vocabulary.ids.tolist())
    for sequence in sequences:
        slots = [target.position for target in sequence.slots]
        text = [target.position for target in sequence.text]
        assert all(sequence.ids[slot] in coord_ids for slot in slots)
        assert all(0 <= target.bin <= 999 for target in sequence.slots)
        assert len({*slots, *text}) == len(slots) + len(text)  # nothing is asked twice
        assert all(len(set(box.slots)) == 4 and set(box.slots) <= set(slots) for box in sequence.boxes)
    supervision = Supervision.collate(sequences, [1] * len(sequences), 1 + max(len(one.ids) for one in sequences))
    assert [len(supervision.text_rows), len(supervision.slot_rows), len(supervision.boxes)] == count_units(sequences)
    assert supervision.box_slots.shape == (len(supervision.boxes), 4)

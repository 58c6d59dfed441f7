# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Rollout + matches + ground truth → supervised sequences: exact targets by hand, and what always holds."""

import re
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.matching import MatchingConfig, match_objects
from coordexp_trl.protocols import get_protocol
from coordexp_trl.records import DetectionObject, DetectionRecord
from coordexp_trl.sequences import (
    BoxTarget,
    SequenceBuilder,
    SlotTarget,
    TextTarget,
    TrainingSequence,
    ground_truth,
)
from coordexp_trl.tiny import build_tiny_tokenizer

GRID = CoordinateGrid()
MODES = ("two_sequence", "appended", "expert")
PROTOCOLS = ("tags", "json")
WEIGHTS = {"eos_weight": 0.25, "self_context_coord_weight": 0.75, "own_token_weight": 0.5}

# What the protocols write around the coordinates, spelt out once more.
OPEN = {"tags": "<obj><desc>{}</desc><box>", "json": '{{"objects": [{{"desc": "{}", "bbox_2d": ['}
NEXT = {"tags": "</box></obj><obj><desc>{}</desc><box>", "json": ']}}, {{"desc": "{}", "bbox_2d": ['}
CLOSE = {"tags": "</box></obj>", "json": "]}]}"}
EMPTY = {"tags": "", "json": '{"objects": []}'}
SEPARATOR = {"tags": "", "json": ", "}

CAT, DOG, COW = ("cat", (100, 110, 300, 310)), ("dog", (500, 510, 800, 810)), ("cow", (10, 900, 90, 980))
SEEN_CAT, SEEN_DOG = (101, 108, 303, 312), (498, 511, 790, 815)  # as the model writes the boxes of CAT and DOG
ELSEWHERE, NOWHERE = (600, 20, 700, 90), (20, 600, 90, 700)  # boxes that match nothing


# Functions rather than fixtures: hypothesis writes out the arguments of a failing test, thousands of tokens long.
@cache
def get_tokenizer():
    return build_tiny_tokenizer()


@cache
def protocol_of(name: str):
    return get_protocol(name, get_tokenizer())


def tokenize(text: str) -> list[int]:
    return get_tokenizer()(text, add_special_tokens=False)["input_ids"] if text else []


def box_text(protocol: str, bins) -> str:
    return SEPARATOR[protocol].join(f"<|coord_{k}|>" for k in bins)


def set_text(protocol: str, objects) -> str:
    """The text of a set of (description, bins), as the protocol writes it."""
    parts = [
        (OPEN if first else NEXT)[protocol].format(desc) + box_text(protocol, bins)
        for first, (desc, bins) in zip([True] + [False] * len(objects), objects, strict=False)
    ]
    return "".join([*parts, CLOSE[protocol]]) if objects else EMPTY[protocol]


def truth(*objects):
    """Ground truth in canonical order."""
    items = [DetectionObject(desc=desc, bins=bins) for desc, bins in objects]
    return ground_truth(DetectionRecord(images=("a.png",), width=640, height=480, objects=items), GRID)


def match(parsed, objects):
    return match_objects(
        GRID.bins_to_unit([item.bins for item in parsed.objects]),
        [item.box for item in objects],
        [item.desc for item in parsed.objects],
        [item.desc for item in objects],
        MatchingConfig(min_iou=0.5),
    )


def build(protocol, ids, objects, mode, **options) -> list[TrainingSequence]:
    parsed = protocol.parse(ids)
    builder = SequenceBuilder(protocol, protocol.tokenizer.eos_token_id, mode, **(WEIGHTS | options))
    return builder.build(ids, parsed, match(parsed, objects), objects)


class Script:
    """
    Writes an expected sequence part by part: `keep` is context without supervision, `say` is supervised as it stands,
    `own` is context of which the first tokens have labels, `box` is four slots.
    """

    def __init__(self, protocol: str):
        self.protocol = protocol
        self.sequence = TrainingSequence([])

    def keep(self, text: str) -> "Script":
        self.sequence.ids += tokenize(text)
        return self

    def say(self, text: str, weight: float = 1.0) -> "Script":
        for token in tokenize(text):
            self.sequence.text.append(TextTarget(len(self.sequence.ids), token, weight))
            self.sequence.ids.append(token)
        return self

    def own(self, context: str, labels: str) -> "Script":
        """Both are single tokens between bars; a label stands above the token at its place."""
        context, labels = ([self._one(token) for token in text.split("|")] for text in (context, labels))
        start = len(self.sequence.ids)
        self.sequence.ids += context
        self.sequence.text += [
            TextTarget(start + k, token, WEIGHTS["own_token_weight"]) for k, token in enumerate(labels)
        ]
        return self

    def _one(self, text: str) -> int:
        (token,) = [get_tokenizer().eos_token_id] if text == "EOS" else tokenize(text)
        return token

    def box(self, bins, target=None, weight: float = 1.0, matched: bool = False, separators: str = "keep") -> "Script":
        """Slots holding `bins`, supervised towards `target` if there is one, and as a matched box if `matched`."""
        slots = []
        for k, written in enumerate(bins):
            if k:
                getattr(self, separators)(SEPARATOR[self.protocol])
            slots.append(len(self.sequence.ids))
            self.sequence.ids += tokenize(f"<|coord_{written}|>")
            if target is not None:
                self.sequence.slots.append(SlotTarget(slots[-1], target[k], weight))
        if matched:
            unit = tuple(value / 999 for value in target)
            self.sequence.boxes.append(BoxTarget(tuple(slots), unit, 1.0))
        return self

    def matched(self, bins, target) -> "Script":
        """The model's own box, matched to `target`."""
        return self.box(bins, target, WEIGHTS["self_context_coord_weight"], matched=True)

    def labelled(self, bins, target) -> "Script":
        """As `matched`, with labels on the separators."""
        return self.box(bins, target, WEIGHTS["self_context_coord_weight"], matched=True, separators="say_own")

    def say_own(self, text: str) -> "Script":
        return self.say(text, WEIGHTS["own_token_weight"])

    def objects(self, *objects) -> "Script":
        """Objects that are supervised everywhere, then the close and the end token."""
        for desc, bins in objects:
            gap = (NEXT if self.sequence.ids else OPEN)[self.protocol]
            self.say(gap.format(desc)).box(bins, bins, separators="say")
        self.say((CLOSE if self.sequence.ids else EMPTY)[self.protocol])
        return self.say("<|im_end|>", WEIGHTS["eos_weight"])


# Each case: rollout, ground truth, and the sequences of the modes two_sequence and appended. `p` is the name of the
# protocol, `s()` a new script.
def all_matched_in_another_order(p, s):
    rollout = set_text(p, [("dog", SEEN_DOG), ("cat", SEEN_CAT)])
    own = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1])
    own.keep(NEXT[p].format("cat")).matched(SEEN_CAT, CAT[1])
    appended = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1])
    appended.keep(NEXT[p].format("cat")).matched(SEEN_CAT, CAT[1]).objects()
    return rollout, [CAT, DOG], [s().objects(DOG, CAT), own], appended


def one_miss(p, s):
    rollout = set_text(p, [("dog", SEEN_DOG)])
    own = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1])
    appended = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1]).objects(CAT)
    return rollout, [CAT, DOG], [s().objects(DOG, CAT), own], appended


def two_misses_in_canonical_order(p, s):
    rollout = set_text(p, [("dog", SEEN_DOG)])
    own = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1])
    appended = s().keep(OPEN[p].format("dog")).matched(SEEN_DOG, DOG[1]).objects(CAT, COW)
    return rollout, [COW, CAT, DOG], [s().objects(DOG, CAT, COW), own], appended


def extra_before_a_match(p, s):
    """The extra is context; nothing is asked of it."""
    rollout = set_text(p, [("cow", ELSEWHERE), ("cat", SEEN_CAT)])

    def own():
        return s().keep(OPEN[p].format("cow")).box(ELSEWHERE).keep(NEXT[p].format("cat")).matched(SEEN_CAT, CAT[1])

    return rollout, [CAT], [s().objects(CAT), own()], own().objects()


def extra_at_the_end(p, s):
    """The self-context sequence ends at the last matched object; the appended one goes on after the extra."""
    rollout = set_text(p, [("cat", SEEN_CAT), ("cow", ELSEWHERE)])
    own = s().keep(OPEN[p].format("cat")).matched(SEEN_CAT, CAT[1])
    appended = s().keep(OPEN[p].format("cat")).matched(SEEN_CAT, CAT[1]).keep(NEXT[p].format("cow")).box(ELSEWHERE)
    return rollout, [CAT, DOG], [s().objects(CAT, DOG), own], appended.objects(DOG)


def wrong_description(p, s):
    """The boxes match; the description is asked for in the re-ordered ground truth alone."""
    rollout = set_text(p, [("cow", SEEN_CAT)])
    own = s().keep(OPEN[p].format("cow")).matched(SEEN_CAT, CAT[1])
    appended = s().keep(OPEN[p].format("cow")).matched(SEEN_CAT, CAT[1]).objects()
    return rollout, [CAT], [s().objects(CAT), own], appended


def malformed_object_between(p, s):
    """Three coordinates: the object is dropped and stays in the context."""
    broken = NEXT[p].format("cow") + box_text(p, (1, 2, 3))
    rollout = set_text(p, [("cat", SEEN_CAT), ("dog", SEEN_DOG)])
    gap = NEXT[p].format("dog")
    rollout = rollout.replace(gap, broken + gap)

    def own():
        return s().keep(OPEN[p].format("cat")).matched(SEEN_CAT, CAT[1]).keep(broken + gap).matched(SEEN_DOG, DOG[1])

    return rollout, [CAT, DOG], [s().objects(CAT, DOG), own()], own().objects()


def truncated_tail(p, s):
    """The rollout was cut inside its second object, which is cut away."""
    rollout = set_text(p, [("cat", SEEN_CAT)]).removesuffix(CLOSE[p]) + NEXT[p].format("dog") + "<|coord_498|>"
    own = s().keep(OPEN[p].format("cat")).matched(SEEN_CAT, CAT[1])
    appended = s().keep(OPEN[p].format("cat")).matched(SEEN_CAT, CAT[1]).objects(DOG)
    return rollout, [CAT, DOG], [s().objects(CAT, DOG), own], appended


def unparseable(p, s):
    return "a <box> of cats <|coord_3|>", [CAT, DOG], [s().objects(CAT, DOG)], s().objects(CAT, DOG)


def empty_rollout(p, s):
    return "", [CAT], [s().objects(CAT)], s().objects(CAT)


def no_ground_truth(p, s):
    """The empty set is supervised; `appended` closes after the extra."""
    rollout = set_text(p, [("cat", SEEN_CAT)])
    return rollout, [], [s().objects()], s().keep(OPEN[p].format("cat")).box(SEEN_CAT).objects()


def nothing_at_all(p, s):
    return EMPTY[p], [], [s().objects()], s().objects()


CASES = [
    all_matched_in_another_order,
    one_miss,
    two_misses_in_canonical_order,
    extra_before_a_match,
    extra_at_the_end,
    wrong_description,
    malformed_object_between,
    truncated_tail,
    unparseable,
    empty_rollout,
    no_ground_truth,
    nothing_at_all,
]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_two_sequence_and_appended(case, name):
    rollout, objects, two, appended = case(name, lambda: Script(name))
    ids, objects = tokenize(rollout), truth(*objects)
    assert build(protocol_of(name), ids, objects, "two_sequence") == [script.sequence for script in two]
    assert build(protocol_of(name), ids, objects, "two_sequence", self_context=False) == [two[0].sequence]
    assert build(protocol_of(name), ids, objects, "appended") == [appended.sequence]


# The mode `expert`: what stands in the rollout (single tokens between bars) and, below it, the labels on it.
TAGS_OPEN_CAT = "<obj|><|desc|>|c|at|</|desc|><|box|>"
TAGS_NEXT_DOG = "</|box|></|obj|><|obj|><|desc|>|do|g|</|desc|><|box|>"
JSON_OPEN_CAT = '{"|objects|":| [{"|desc|":| "|c|at|",| "|bbox|_|2|d|":| ['
JSON_NEXT_DOG = ']}|,| {"|desc|":| "|do|g|",| "|bbox|_|2|d|":| ['


def expert_all_matched(s):
    """Nothing differs: every token of the rollout is its own label."""
    expected = s("tags").own(TAGS_OPEN_CAT, TAGS_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    expected.own(TAGS_NEXT_DOG, TAGS_NEXT_DOG).labelled(SEEN_DOG, DOG[1])
    return [("cat", SEEN_CAT), ("dog", SEEN_DOG)], [CAT, DOG], expected.objects()


def expert_all_matched_json(s):
    expected = s("json").own(JSON_OPEN_CAT, JSON_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    expected.own(JSON_NEXT_DOG, JSON_NEXT_DOG).labelled(SEEN_DOG, DOG[1])
    return [("cat", SEEN_CAT), ("dog", SEEN_DOG)], [CAT, DOG], expected.objects()


def expert_wrong_description(s):
    """`cow` begins as `cat` does; the labels end with the token that differs, the slots are supervised anyway."""
    expected = s("tags").own("<obj|><|desc|>|c|o|w|</|desc|><|box|>", "<obj|><|desc|>|c|at")
    return [("cow", SEEN_CAT)], [CAT], expected.labelled(SEEN_CAT, CAT[1]).objects()


def expert_wrong_description_json(s):
    expected = s("json").own(JSON_OPEN_CAT.replace("c|at", "do|g"), JSON_OPEN_CAT.partition("c|at")[0] + "c")
    return [("dog", SEEN_CAT)], [CAT], expected.labelled(SEEN_CAT, CAT[1]).objects()


def expert_longer_description(s):
    """The rollout goes on where the ground truth's description ends."""
    expected = s("tags").own("<obj|><|desc|>|c|at| dog|</|desc|><|box|>", "<obj|><|desc|>|c|at|</")
    return [("cat dog", SEEN_CAT)], [CAT], expected.labelled(SEEN_CAT, CAT[1]).objects()


def expert_extra_when_all_is_written(s):
    """The expert would end here: in `tags` the labels differ from `><` on, where the close ends with `>`."""
    expected = s("tags").own(TAGS_OPEN_CAT, TAGS_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    expected.own(TAGS_NEXT_DOG, "</|box|></|obj|>").box(ELSEWHERE)
    return [("cat", SEEN_CAT), ("dog", ELSEWHERE)], [CAT], expected.objects()


def expert_extra_when_all_is_written_json(s):
    expected = s("json").own(JSON_OPEN_CAT, JSON_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    expected.own(JSON_NEXT_DOG, "]}|]}").box(ELSEWHERE)
    return [("cat", SEEN_CAT), ("dog", ELSEWHERE)], [CAT], expected.objects()


def expert_extra_without_ground_truth(s):
    """Nothing to write from the start: the end token at the first token."""
    return [("cat", SEEN_CAT)], [], s("tags").own(TAGS_OPEN_CAT, "EOS").box(SEEN_CAT).objects()


def expert_extra_without_ground_truth_json(s):
    """The empty set and an object have `{"objects":` in common."""
    expected = s("json").own(JSON_OPEN_CAT, '{"|objects|":| [').box(SEEN_CAT)
    return [("cat", SEEN_CAT)], [], expected.objects()


def expert_extra_before_a_miss(s):
    """The first missed object in canonical order is wanted, rather than the match that comes later."""
    expected = s("tags").own("<obj|><|desc|>|c|o|w|</|desc|><|box|>", "<obj|><|desc|>|c|at").box(ELSEWHERE)
    expected.own(TAGS_NEXT_DOG, TAGS_NEXT_DOG).labelled(SEEN_DOG, DOG[1])
    return [("cow", ELSEWHERE), ("dog", SEEN_DOG)], [DOG, CAT], expected.objects(CAT)


def expert_extra_before_a_match(s):
    """Nothing is missed, but the rollout has still to write the dog: that is what is wanted, not the end."""
    expected = s("tags").own(TAGS_OPEN_CAT, "<obj|><|desc|>|do").box(ELSEWHERE)
    expected.own(TAGS_NEXT_DOG, TAGS_NEXT_DOG).labelled(SEEN_DOG, DOG[1])
    return [("cat", ELSEWHERE), ("dog", SEEN_DOG)], [DOG], expected.objects()


def expert_two_extras(s):
    """Each one is told what should stand there instead."""
    expected = s("tags").own(TAGS_OPEN_CAT, "<obj|><|desc|>|do").box(ELSEWHERE)
    expected.own(TAGS_NEXT_DOG, TAGS_NEXT_DOG).box(NOWHERE)
    return [("cat", ELSEWHERE), ("dog", NOWHERE)], [DOG], expected.objects(DOG)


EXPERT_CASES = [value for name, value in list(globals().items()) if name.startswith("expert_")]


@pytest.mark.parametrize("case", EXPERT_CASES)
def test_expert(case):
    written, objects, expected = case(Script)
    ids = tokenize(set_text(expected.protocol, written))
    assert build(protocol_of(expected.protocol), ids, truth(*objects), "expert") == [expected.sequence]


def test_expert_labels_what_stands_instead_of_an_object():
    # A malformed object stands before the dog: the expert would have opened the dog there.
    rollout = set_text("tags", [("cat", SEEN_CAT), ("dog", SEEN_DOG)])
    gap = NEXT["tags"].format("dog")
    ids = tokenize(rollout.replace(gap, NEXT["tags"].format("cow") + gap))
    (sequence,) = build(protocol_of("tags"), ids, truth(CAT, DOG), "expert")
    expected = Script("tags").own(TAGS_OPEN_CAT, TAGS_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    expected.own(
        "</|box|></|obj|><|obj|><|desc|>|c|o|w|</|desc|><|box|></|box|></|obj|><|obj|><|desc|>|do|g|</|desc|><|box|>",
        "</|box|></|obj|><|obj|><|desc|>|do",
    )
    assert sequence == expected.labelled(SEEN_DOG, DOG[1]).objects().sequence


def test_expert_labels_separators_with_what_the_protocol_writes():
    # JSON reads `,` between coordinates too, but an expert writes `, `: the label of the second token is the space.
    ids = tokenize(set_text("json", [("cat", SEEN_CAT)]).replace("|>, <|", "|>,\n\n<|"))
    (sequence,) = build(protocol_of("json"), ids, truth(CAT), "expert")
    comma, space = tokenize(", ")
    labels = {target.position: target.token for target in sequence.text}
    for slot, following in pairwise(target.position for target in sequence.slots):
        assert following == slot + 4 and ids[slot + 1] == comma  # `,` and two line breaks
        assert [labels.get(slot + k) for k in (1, 2, 3)] == [comma, space, None]


def test_neutral_leaves_extras_unsupervised():
    ids = tokenize(set_text("tags", [("cat", SEEN_CAT), ("dog", ELSEWHERE)]))
    (sequence,) = build(protocol_of("tags"), ids, truth(CAT, COW), "expert", extra_policy="neutral")
    expected = Script("tags").own(TAGS_OPEN_CAT, TAGS_OPEN_CAT).labelled(SEEN_CAT, CAT[1])
    assert sequence == expected.keep(TAGS_NEXT_DOG.replace("|", "")).box(ELSEWHERE).objects(COW).sequence


def test_own_tokens_take_their_weight():
    ids = tokenize(set_text("tags", [("cat", SEEN_CAT)]))
    (sequence,) = build(protocol_of("tags"), ids, truth(CAT), "expert", own_token_weight=0.125)
    last_slot = sequence.slots[-1].position
    assert {target.weight for target in sequence.text if target.position < last_slot} == {0.125}


# What holds for every rollout.

DESCS = ["cat", "dog", "red circle", "Sitz-Platz"]
BINS = st.tuples(*[st.integers(0, 9), st.integers(1, 4)] * 2).map(
    lambda v: (v[0] * 100, v[2] * 100, min(v[0] * 100 + v[1] * 90, 999), min(v[2] * 100 + v[3] * 90, 999))
)
OBJECTS = st.lists(st.tuples(st.sampled_from(DESCS), BINS), max_size=5)


@st.composite
def rollouts(draw):
    """Ground truth, and a rollout that repeats some of it, moved a little, among other objects and debris."""
    objects = draw(OBJECTS)
    written = draw(OBJECTS)
    for desc, bins in draw(st.lists(st.sampled_from(objects), max_size=5)) if objects else []:
        moved = tuple(min(max(k + draw(st.integers(-30, 30)), 0), 999) for k in bins)
        written.append((draw(st.sampled_from([desc, desc, "dog"])), moved))
    written = draw(st.permutations(written))
    debris = draw(st.sampled_from(["", "", "<obj>", '{"desc": "x"}', "<|coord_7|>", "so", "</box></obj>"]))
    place, cut = draw(st.integers(0, 10)), draw(st.integers(0, 60))
    return objects, written, debris, place, cut if draw(st.booleans()) else None


def spoil(ids, debris, place, cut):
    ids = ids[: place * 5] + debris + ids[place * 5 :]
    return ids if cut is None else ids[:cut]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=40)
@given(data=rollouts())
def test_what_always_holds(name, mode, data):
    objects, written, debris, place, cut = data
    protocol, objects = protocol_of(name), truth(*objects)
    ids = spoil(tokenize(set_text(name, written)), tokenize(debris), place, cut)
    matched = match(protocol.parse(ids), objects)
    sequences = build(protocol, ids, objects, mode)
    coord_ids = set(protocol.vocabulary.ids.tolist())

    for sequence in sequences:
        slots = [target.position for target in sequence.slots]
        text = [target.position for target in sequence.text]
        assert all(sequence.ids[slot] in coord_ids for slot in slots)
        assert not any(target.token in coord_ids for target in sequence.text)
        assert len({*slots, *text}) == len(slots) + len(text)  # nothing is asked twice
        assert all(slot in slots for box in sequence.boxes for slot in box.slots)
    # Every match is supervised exactly once, towards its own object
    boxes = sorted(box.box for sequence in sequences for box in sequence.boxes)
    assert boxes == sorted(objects[j].box for _, j in matched.pairs)

    complete = sequences[0]  # the sequence that ends the set
    gap = protocol.gap_ids(None, first=not complete.slots and complete.ids == protocol.encode([]) + complete.ids[-1:])
    end = len(complete.ids) - 1
    assert complete.ids[-1] == get_tokenizer().eos_token_id
    assert complete.text[-1] == TextTarget(end, get_tokenizer().eos_token_id, WEIGHTS["eos_weight"])
    assert complete.ids[end - len(gap) : end] == gap
    closing = [TextTarget(end - len(gap) + k, token, 1.0) for k, token in enumerate(gap)]
    assert complete.text[len(complete.text) - 1 - len(gap) : -1] == closing

    if mode == "two_sequence":
        misses = [objects[j] for j in matched.unmatched_ground_truth]
        reordered = [objects[j] for _, j in matched.pairs] + misses
        assert get_tokenizer().decode(complete.ids) == protocol.serialize(reordered) + "<|im_end|>"
        assert [target.token for target in complete.text] == [
            token for token in complete.ids if token not in coord_ids
        ]
        for own in sequences[1:]:
            assert own.ids == ids[: len(own.ids)] and not own.text
    else:  # nothing is lost: the written objects, then the misses
        found = [(item.desc, item.bins) for item in protocol.parse(ids).objects]
        misses = [(objects[j].desc, objects[j].bins) for j in matched.unmatched_ground_truth]
        assert [(item.desc, item.bins) for item in protocol.parse(complete.ids).objects] == found + misses


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("mode", ["appended", "expert"])
@settings(max_examples=40)
@given(written=OBJECTS, objects=OBJECTS)
def test_the_continuation_is_what_the_tokenizer_gives_for_the_whole_text(name, mode, written, objects):
    # `></`, `><` and `]},` cross the joint of the rollout and its continuation.
    protocol, objects = protocol_of(name), truth(*objects)
    ids = tokenize(set_text(name, written))
    (sequence,) = build(protocol, ids, objects, mode)
    text = get_tokenizer().decode(sequence.ids)
    assert tokenize(text) == sequence.ids
    misses = match(protocol.parse(ids), objects).unmatched_ground_truth
    assert text == set_text(name, written + [(objects[j].desc, objects[j].bins) for j in misses]) + "<|im_end|>"


def test_the_continuation_is_canonical_after_a_prefix_that_is_not():
    # The model spelt the close of its object letter by letter: those tokens are dropped, the slots before are kept.
    opening, box = tokenize(OPEN["tags"].format("cat")), tokenize(box_text("tags", SEEN_CAT))
    spelt = [token for character in "</box></obj>" for token in tokenize(character)]
    (sequence,) = build(protocol_of("tags"), opening + box + spelt, truth(CAT, DOG), "appended")
    assert sequence.ids == opening + box + tokenize(set_text("tags", [CAT, DOG]))[len(opening + box) :] + [
        get_tokenizer().eos_token_id
    ]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40)
@given(data=st.data())
def test_the_order_of_the_annotation_changes_nothing(mode, data):
    objects, written, debris, place, cut = data.draw(rollouts())
    shuffled = data.draw(st.permutations(objects))
    ids = spoil(tokenize(set_text("tags", written)), tokenize(debris), place, cut)
    first, second = (build(protocol_of("tags"), ids, truth(*order), mode) for order in (objects, shuffled))
    assert first == second


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([1, 3], [0, 1, 2, 3, 4]),  # canonical itself: so is the whole
        ([0, 1, 2], [0, 1, 2, 3, 4]),
        ([4, 2, 0], [1, 3, 4, 2, 0]),  # before the first that follows it; the written ones keep their order
        ([2, 0, 4], [1, 2, 0, 3, 4]),
    ],
)
def test_missed_objects_in_their_canonical_place(written, expected):
    objects = [("cat", (c * 110, c * 100, c * 110 + 90, c * 100 + 80)) for c in range(5)]
    ids = tokenize(set_text("tags", [objects[k] for k in written]))
    sequences = build(protocol_of("tags"), ids, truth(*objects), "two_sequence", missed_order="canonical")
    text = set_text("tags", [objects[k] for k in expected])
    assert get_tokenizer().decode(sequences[0].ids) == text + "<|im_end|>"
    # The rollout's own sequence does not depend on it
    assert sequences[1:] == build(protocol_of("tags"), ids, truth(*objects), "two_sequence")[1:]


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_repeated_prediction_adds_nothing(name, data):
    # Objects lie apart, so a copy at the end can only compete with what it copies. It must lose, or it would move the
    # supervision to itself, and 50 copies would be as good as one.
    cells = data.draw(st.lists(st.sampled_from(range(9)), unique=True, min_size=1, max_size=4))
    objects = [("cat", (c * 110, c * 100, c * 110 + 90, c * 100 + 80)) for c in cells]
    written = [
        (data.draw(st.sampled_from(["cat", "dog"])), tuple(k + data.draw(st.integers(0, 20)) for k in bins))
        for _, bins in data.draw(st.permutations(objects))
    ]
    copies = [data.draw(st.sampled_from(written))] * data.draw(st.integers(1, 3))
    plain, repeated = (
        build(protocol_of(name), tokenize(set_text(name, items)), truth(*objects), "two_sequence")
        for items in (written, written + copies)
    )
    assert repeated == plain


def test_a_copy_loses_against_what_it_copies():
    # Two assignments have the same cost here; the copy must not win, or the order of the objects changes.
    truths = [("cat", (c * 110, c * 100, c * 110 + 90, c * 100 + 80)) for c in range(3)]
    written = [truths[1], ("cat", (11, 20, 99, 100)), truths[2]]
    plain, repeated = (
        build(protocol_of("tags"), tokenize(set_text("tags", items)), truth(*truths), "two_sequence")
        for items in (written, [*written, truths[1]])
    )
    assert repeated == plain


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("objects", [[], [CAT], [DOG, CAT, COW]], ids=len)
def test_written_ground_truth_is_supervised_everywhere(name, objects):
    items = truth(*objects)
    if len(objects) == 3:
        items = [items[k] for k in (1, 0, 2)]  # in whatever order it is given
    protocol = protocol_of(name)
    end = get_tokenizer().eos_token_id
    sequence = SequenceBuilder(protocol, end, eos_weight=0.25).write(items)
    assert sequence.ids == [*tokenize(set_text(name, [(item.desc, item.bins) for item in items])), end]
    assert sequence.ids == [*protocol.encode(items), end]
    weights = {target.position: target.weight for target in sequence.text}
    assert weights.pop(len(sequence.ids) - 1) == 0.25 and set(weights.values()) <= {1.0}
    assert all(sequence.ids[target.position] == target.token for target in sequence.text)
    assert [target.bin for target in sequence.slots] == [k for item in items for k in item.bins]
    positions = [target.position for target in (*sequence.text, *sequence.slots)]
    assert sorted(positions) == list(range(len(sequence.ids)))
    assert sequence.boxes == []


def test_scripts_spell_the_protocols():
    # The texts above are those of the protocols: without this the table would prove nothing.
    objects = [DetectionObject(desc=desc, bins=bins) for desc, bins in (CAT, DOG, COW)]
    for name in PROTOCOLS:
        protocol = protocol_of(name)
        assert protocol.serialize(objects) == set_text(name, [CAT, DOG, COW])
        assert protocol.serialize([]) == EMPTY[name]
    assert re.sub(r"\|", "", TAGS_OPEN_CAT) == OPEN["tags"].format("cat")

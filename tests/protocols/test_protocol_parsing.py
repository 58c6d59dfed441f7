# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading any tokens at all: no exception, nothing invented, nothing lost, linear time."""

import functools
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers.convert_slow_tokenizer import bytes_to_unicode

from coordexp_trl.protocols import DROP_REASONS, OBJECT_DROP_REASONS, PROTOCOLS, get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import build_tiny_tokenizer

NAMES = sorted(PROTOCOLS)
COORD = r"(?:<\|coord_\d+\|>)"

# What a completion may consist of, well-formed objects among it.
FRAGMENTS = {
    "tags": [
        *("<obj>", "</obj>", "<desc>", "</desc>", "<box>", "</box>", "####", "#", "cat", " ", "<", "<ob", "é"),
        *("<|image_pad|>", "<obj><desc>", "</desc><box>####</box></obj>"),
        *("<poly>", "</poly>", "######", "</desc><poly>", "</desc><poly>########</poly></obj>"),
        *["<obj><desc>black cat</desc><box>####</box></obj>"] * 6,
        *["<obj><desc>kite</desc><poly>######</poly></obj>"] * 3,
    ],
    "json": [
        *("{", "}", "[", "]", '"', "\\", ",", ":", " ", "\n", "#", "#, #, #, #", "]}", "cat", "é", "<|image_pad|>"),
        *('"desc"', '"bbox_2d"', '{"desc": "', '", "bbox_2d": [', '{"objects": [', r"\"", r"\u00e9", r"\ud800"),
        *('"poly"', '", "poly": [', "#, #, #, #, #, #"),
        *['{"desc": "black cat", "bbox_2d": [#, #, #, #]}', ", "] * 4,
        *['{"desc": "kite", "poly": [#, #, #, #, #, #]}', ", "] * 2,
    ],
}
OPENING = {"tags": r"<obj>", "json": r'\{\s*"(?!objects")\w*"\s*:'}
SPACE = r"[ \t\n\r]*"
COMPLETE = {
    "tags": r"<obj><desc>((?:(?!</?(?:obj|desc|box|poly)>).)*)</desc>"
    rf"(?:<box>({COORD}{{4}})</box>|<poly>({COORD}{{6}}(?:{COORD * 2})*)</poly>)</obj>",
    "json": rf'{{ "desc" : ("(?:[^"\\]|\\.)*") , (?:"bbox_2d" : \[ ({COORD}(?: , {COORD}){{3}}) \] }}|'
    rf'"poly" : \[ ({COORD}(?: , {COORD}){{5}}(?: , {COORD} , {COORD})*) \] }})'.replace(" ", SPACE),
}
# The description that stands before a box.
DESC_OF_BOX = {
    "tags": rb"<desc>((?:(?!<desc>).)*)</desc><(?:box|poly)>$",
    "json": rb'"desc" : "((?:[^"\\]|\\.)*)" , "(?:bbox_2d|poly)" : \[ $'.replace(b" ", SPACE.encode()),
}


def completion(name: str) -> st.SearchStrategy[str]:
    def number(parts: list[str]) -> str:
        counter = iter(range(1000))
        return re.sub("#", lambda _: f"<|coord_{next(counter)}|>", "".join(parts))

    return st.lists(st.sampled_from(FRAGMENTS[name]), max_size=14).map(number)


def read_text(name: str, text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The objects of a text, read independently: a regular expression over characters."""
    objects = []
    for match in re.finditer(COMPLETE[name], text, re.DOTALL):
        desc = match[1]
        if name == "json":
            try:
                desc = json.loads(desc)
                desc.encode()
            except ValueError:
                continue
        if desc.strip() and "<|" not in desc:
            objects.append((desc, tuple(map(int, re.findall(r"coord_(\d+)", match[2] or match[3])))))
    return objects


def check_invariants(protocol, ids: list[int], parsed) -> None:
    """What holds for every completion."""
    assert set(parsed.dropped) <= set(DROP_REASONS) and all(count > 0 for count in parsed.dropped.values())
    ends = [position for position, token_id in enumerate(ids) if token_id in protocol.end_ids]
    assert parsed.ended == bool(ends) and parsed.length == min([*ends, len(ids)])
    assert not (parsed.truncated and parsed.ended)
    pieces = [protocol._bytes.join([token_id]) for token_id in ids[: parsed.length]]
    text, owners = b"".join(pieces), [position for position, piece in enumerate(pieces) for _ in piece]
    last_slot = last_start = -1
    for item in parsed.objects:
        assert item.desc.strip()
        assert item.bins == tuple(protocol.vocabulary.to_bin(ids[slot]) for slot in item.slots)
        assert last_slot < item.slots[0] and list(item.slots) == sorted(set(item.slots))
        assert last_start < item.span[0] < item.slots[0] and item.slots[-1] < item.span[1] <= parsed.length
        desc = re.search(DESC_OF_BOX[protocol.name], text[: owners.index(item.slots[0])], re.DOTALL)
        assert item.desc_span == (owners[desc.start(1)], owners[desc.end(1) - 1] + 1)
        assert item.span[0] <= item.desc_span[0] and item.desc_span[1] <= item.slots[0]
        last_slot, last_start = item.slots[-1], item.span[0]
    assert parsed.complete_end == max([item.span[1] for item in parsed.objects], default=0)


@pytest.mark.parametrize("name", NAMES)
def test_reading_equals_an_independent_reading_of_the_text(protocols, tokenizer, name):
    protocol = protocols[name]

    @settings(deadline=None, max_examples=300)
    @given(text=completion(name))
    def check(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        parsed = protocol.parse(ids)
        check_invariants(protocol, ids, parsed)
        assert [(item.desc, item.bins) for item in parsed.objects] == read_text(name, text)
        # Each object that opens is returned, or dropped once, or is the truncated tail.
        opened = len(re.findall(OPENING[name], text))
        dropped = sum(parsed.dropped.get(reason, 0) for reason in OBJECT_DROP_REASONS)
        assert opened - len(parsed.objects) - dropped in ((0, 1) if parsed.truncated else (0,))

    check()


@pytest.fixture(scope="module")
def tokens_by_bytes(tokenizer):
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    special = set(tokenizer.added_tokens_decoder)
    return {
        bytes(to_byte[character] for character in token): token_id
        for token, token_id in tokenizer.get_vocab().items()
        if token_id not in special
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_way_a_text_is_cut_into_tokens_does_not_matter(protocols, tokenizer, tokens_by_bytes, name):
    protocol = protocols[name]
    longest = max(map(len, tokens_by_bytes))

    @settings(deadline=None, max_examples=100)
    @given(text=completion(name), data=st.data())
    def check(text, data):
        choose = data.draw(st.randoms(use_true_random=False))
        ids = []
        for part in re.split(r"(<\|.*?\|>)", text):
            if part.startswith("<|"):
                ids.append(tokenizer.convert_tokens_to_ids(part))
                continue
            rest = part.encode()
            while rest:
                size = choose.choice([size for size in range(1, longest + 1) if rest[:size] in tokens_by_bytes])
                ids.append(tokens_by_bytes[rest[:size]])
                rest = rest[size:]
        canonical = protocol.parse(tokenizer(text, add_special_tokens=False)["input_ids"])
        parsed = protocol.parse(ids)
        check_invariants(protocol, ids, parsed)
        assert [(item.desc, item.bins) for item in parsed.objects] == [
            (item.desc, item.bins) for item in canonical.objects
        ]
        assert (parsed.dropped, parsed.truncated) == (canonical.dropped, canonical.truncated)

    check()


SPANNING = {
    "tags": ["</box></obj><obj><desc>", "cat</desc><box>", "</box></obj>"],
    "json": [']}, {"desc": "', 'cat", "bbox_2d": [', "]}]}", '{"objects": [{"'],
}


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_span_several_structures(name):
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in SPANNING[name]])
    protocol = get_protocol(name, tokenizer)
    objects = [DetectionObject(desc="cat", bins=(k, k + 1, k + 2, k + 3)) for k in range(3)]
    ids, slots = protocol.encode_with_slots(objects)
    assert set(tokenizer.convert_tokens_to_ids(SPANNING[name])) <= set(ids)
    parsed = protocol.parse(ids)
    check_invariants(protocol, ids, parsed)
    assert [(item.desc, item.bins, item.slots) for item in parsed.objects] == [
        ("cat", item.bins, quad) for item, quad in zip(objects, slots, strict=True)
    ]
    assert (parsed.dropped, parsed.complete_end) == ({}, len(ids))
    # The description is one token, which it shares with the structure.
    assert [ids[slice(*item.desc_span)] for item in parsed.objects] == [
        [tokenizer.convert_tokens_to_ids(SPANNING[name][1])]
    ] * len(objects)


# Descriptions, and what the tokens that hold them decode to in each protocol.
DESC_TOKENS = [
    ("cat", "cat", "cat"),
    ("black cat", "black cat", "black cat"),
    ("red", ">red", "red"),  # a token across the border before it
    ("cat>", "cat></", "cat>"),  # and after it
    ('a"', 'a"', 'a\\"'),  # escaped in JSON
    ("黑猫", "黑猫", "黑猫"),  # characters spread over several tokens
]


@pytest.mark.parametrize(("desc", "in_tags", "in_json"), DESC_TOKENS)
def test_tokens_of_a_description(protocols, tokenizer, desc, in_tags, in_json):
    for name, expected in (("tags", in_tags), ("json", in_json)):
        ids = protocols[name].encode([DetectionObject(desc=desc, bins=(1, 2, 3, 4))] * 2)
        for item in protocols[name].parse(ids).objects:
            assert tokenizer.decode(ids[slice(*item.desc_span)]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_cut_anywhere(protocols, tokenizer, name):
    protocol = protocols[name]
    shapes = {"black cat": (1, 2, 3, 4), "黑猫 }]": (1, 2, 3, 4, 5, 6), ">red": (1, 2, 3, 4)}
    objects = [DetectionObject(desc=desc, bins=bins) for desc, bins in shapes.items()]
    expected = [(item.desc, item.bins) for item in objects]
    whole = protocol.encode(objects)
    closings = set()
    for cut in range(len(whole) + 1):
        ids = whole[:cut]
        text = tokenizer.decode(ids)
        complete = min(text.count("</obj>" if name == "tags" else "|>]}"), 3)
        parsed = protocol.parse(ids)
        check_invariants(protocol, ids, parsed)
        assert [(item.desc, item.bins) for item in parsed.objects] == expected[:complete]
        assert parsed.dropped == {}
        whole_set = text in ("", *(protocol.serialize(objects[:count]) for count in range(1, 4)))
        assert parsed.truncated == (not whole_set or (name == "json" and not text))
        # The same with an end token: the objects stay, and the broken end is counted instead.
        ended = protocol.parse([*ids, tokenizer.eos_token_id, *whole])
        assert ended.objects == parsed.objects and ended.ended and not ended.truncated
        assert sum(ended.dropped.values()) == parsed.truncated
        closings.add(complete)
    assert closings == {0, 1, 2, 3}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_after_the_end_token_counts(protocols, name):
    protocol = protocols[name]
    ids = protocol.encode([DetectionObject(desc="cat", bins=(1, 2, 3, 4))])
    for end in protocol.end_ids:
        alone = protocol.parse([*ids, end])
        assert (len(alone.objects), alone.dropped, alone.ended, alone.length) == (1, {}, True, len(ids))
        for junk in (ids, [end], [-1, 10**9], protocol.vocabulary.ids.tolist()):
            assert protocol.parse([*ids, end, *junk]) == alone


@functools.cache
def encodings(protocol) -> list[list[int]]:
    descs = ["black cat", "黑猫", ">red", '"\\', "a < b"]
    return [
        protocol.encode(
            [DetectionObject(desc=desc, bins=(k, k + 1, 9, 9) * (1 + k % 2)) for k, desc in enumerate(descs[:count])]
        )
        for count in (0, 1, 3, 5)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_any_integers(protocols, tokenizer, name):
    protocol = protocols[name]
    known = st.integers(0, len(tokenizer) - 1)
    unknown = st.one_of(st.integers(max_value=-1), st.integers(min_value=len(tokenizer)))

    @settings(deadline=None, max_examples=200)
    @given(ids=st.lists(st.one_of(known, known, known, unknown), max_size=60))
    def check(ids):
        check_invariants(protocol, ids, protocol.parse(ids))

    check()


@pytest.mark.parametrize("name", NAMES)
def test_mutated_encodings(protocols, tokenizer, name):
    """Tokens deleted, replaced, repeated and inserted: the objects beside the wounds survive."""
    protocol = protocols[name]
    token = st.one_of(st.integers(0, len(tokenizer) - 1), st.sampled_from([-1, -len(tokenizer), 10**30]))
    edit = st.tuples(st.floats(0, 1), st.integers(0, 4), st.lists(token, max_size=3))

    @settings(deadline=None, max_examples=200)
    @given(whole=st.sampled_from(encodings(protocol)), edits=st.lists(edit, max_size=4))
    def check(whole, edits):
        ids = list(whole)
        for place, removed, inserted in edits:
            position = int(place * len(ids))
            ids[position : position + removed] = inserted
        parsed = protocol.parse(ids)
        check_invariants(protocol, ids, parsed)
        if not set(ids) & protocol.end_ids:
            # One edit reaches two objects at most, or three when it joins their borders.
            assert len(parsed.objects) >= len(protocol.parse(whole).objects) - 3 * len(edits)

    check()


def test_bytes_that_stand_for_other_things_internally(protocols, tokens_by_bytes):
    """The bytes 0xFC to 0xFF occur in broken text only; there they are neither coordinates nor end tokens."""
    protocol = protocols["tags"]
    for byte in range(0xF5, 0x100):
        broken = tokens_by_bytes[bytes([byte])]
        ids = protocol.encode([DetectionObject(desc="cat", bins=(1, 2, 3, 4))])
        slot = protocol.parse(ids).objects[0].slots[2]
        parsed = protocol.parse([*ids[:slot], broken, *ids[slot + 1 :], *ids])
        assert [item.bins for item in parsed.objects] == [(1, 2, 3, 4)]
        assert (parsed.dropped, parsed.ended) == ({"text_in_box": 1}, False)
        parsed = protocol.parse([*ids, broken, *ids])
        assert [item.slots[0] for item in parsed.objects] == [slot - 2, len(ids) + 1 + slot - 2]
        assert (parsed.dropped, parsed.ended) == ({"stray": 1}, False)


# Units whose repetition makes careless readers quadratic: openings that never close, quotes, backslashes, blanks.
ANYWHERE = [" ", "\n", "#", "é", "<|image_pad|>"]
HOSTILE = {
    "tags": [
        *("<obj>", "</obj>", "<obj><desc>", "<obj><desc>a</desc><box>", "<", "</", "</desc>", "<box>", *ANYWHERE),
        *("<poly>", "</poly>", "<obj><desc>a</desc><poly>"),
    ],
    "json": [
        *("{", "}", '"', "\\", '\\"', "[", "]", ", ", "]}", '{"', '{ "', "{ ", "#, ", "#,", '{"desc": ', '{"desc": "'),
        *('{"desc": "\\', '{"objects": [', '{"desc": "a", "bbox_2d": [', '{"desc": "a", "bbox_2d": [#, ', *ANYWHERE),
        *('{"desc": "a", "poly": [', '{"desc": "a", "poly": [#, ', '", "poly": [', "# , "),
    ],
}
HEADS = {
    "tags": ["", "<obj><desc>", "<obj><desc>a</desc><box>", "<obj><desc>a</desc><poly>"],
    "json": ["", '{"objects": [{"desc": "', '{"desc": "a", "bbox_2d": [', '{"desc": "a", "poly": [#'],
}


@pytest.mark.parametrize("name", NAMES)
def test_linear_time(protocols, to_ids, name):
    """
    By construction: the openings cut the bytes into disjoint segments and each is searched a fixed number of times by
    patterns without ambiguous repetition. Here: 16 times the tokens cost 16 times the time, where a quadratic reader
    would need 256 times.
    """
    protocol = protocols[name]

    def seconds(ids: list[int]) -> float:
        times = []
        for _ in range(2):
            start = time.thread_time()
            protocol.parse(ids)
            times.append(time.thread_time() - start)
        return min(times)

    for head in HEADS[name]:
        for unit in HOSTILE[name]:
            ids = to_ids(unit)
            small, large = (to_ids(head) + ids * (size // len(ids)) for size in (1_000, 16_000))
            assert seconds(large) < 80 * seconds(small) + 1e-3, (head, unit)

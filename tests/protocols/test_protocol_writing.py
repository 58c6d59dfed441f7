# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Writing object sets: the text, its tokens, the slots, and which descriptions are refused."""

import copy
import pickle
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLProcessor

from coordexp_trl.protocols import PROTOCOLS, get_protocol
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import build_tiny_processor, build_tiny_tokenizer

NAMES = sorted(PROTOCOLS)
TAGS = [f"<{slash}{name}>" for slash in ("", "/") for name in ("obj", "desc", "box", "poly")]
SPECIAL = ["<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|coord_7|>", "<|coord_*|>"]
STRUCTURE = [
    '"',
    "\\",
    '{"desc": "',
    '", "bbox_2d": [',
    '", "poly": [',
    "]}",
    "{",
    "<",
    ">",
    "</",
    "<ob",
    "\n",
    "\t",
    " ",
    "\u2028",
]

boxes = st.tuples(*[st.integers(0, 999)] * 4)
points = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=3, max_size=12)
polygons = points.map(lambda vertices: sum(vertices, ()))
characters = st.characters(exclude_categories=("Cs", "Cn"))
words = st.sampled_from(["black cat", "Person", "traffic light", "黑猫", "chien café", "ओष्ठ", "🙂‍↔️", ">red", "a\x00b"])
texts = st.lists(st.one_of(words, characters, st.sampled_from(STRUCTURE)), min_size=1, max_size=6).map("".join)
# Descriptions that every protocol can write. U+0338 joins the bracket before it (NFC), so a letter leads.
descs = texts.map(lambda text: "x" + unicodedata.normalize("NFC", text)).filter(
    lambda text: unicodedata.is_normalized("NFC", text) and not any(part in text for part in TAGS + SPECIAL)
)
object_sets = st.lists(st.builds(DetectionObject, desc=descs, bins=st.one_of(boxes, polygons)), max_size=20)


def item(desc: str, *box: int) -> DetectionObject:
    return DetectionObject(desc=desc, bins=box or (1, 2, 3, 4))


def test_the_text_of_both_protocols(protocols):
    objects = [item("black cat", 110, 310, 410, 705), item('a "b"\n', 0, 0, 999, 999)]
    assert protocols["tags"].serialize(objects) == (
        "<obj><desc>black cat</desc><box><|coord_110|><|coord_310|><|coord_410|><|coord_705|></box></obj>"
        '<obj><desc>a "b"\n</desc><box><|coord_0|><|coord_0|><|coord_999|><|coord_999|></box></obj>'
    )
    assert protocols["json"].serialize(objects) == (
        '{"objects": ['
        '{"desc": "black cat", "bbox_2d": [<|coord_110|>, <|coord_310|>, <|coord_410|>, <|coord_705|>]}, '
        '{"desc": "a \\"b\\"\\n", "bbox_2d": [<|coord_0|>, <|coord_0|>, <|coord_999|>, <|coord_999|>]}]}'
    )
    objects = [item("cat", 1, 2, 3, 4), item("kite", 500, 20, 560, 90, 480, 80), item("dog", 5, 6, 7, 8)]
    assert protocols["tags"].serialize(objects) == (
        "<obj><desc>cat</desc><box><|coord_1|><|coord_2|><|coord_3|><|coord_4|></box></obj>"
        "<obj><desc>kite</desc><poly><|coord_500|><|coord_20|><|coord_560|><|coord_90|><|coord_480|><|coord_80|></poly>"
        "</obj><obj><desc>dog</desc><box><|coord_5|><|coord_6|><|coord_7|><|coord_8|></box></obj>"
    )
    assert protocols["json"].serialize(objects) == (
        '{"objects": ['
        '{"desc": "cat", "bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]}, '
        '{"desc": "kite", "poly": '
        "[<|coord_500|>, <|coord_20|>, <|coord_560|>, <|coord_90|>, <|coord_480|>, <|coord_80|>]}, "
        '{"desc": "dog", "bbox_2d": [<|coord_5|>, <|coord_6|>, <|coord_7|>, <|coord_8|>]}]}'
    )
    assert protocols["tags"].serialize([]) == ""
    assert protocols["json"].serialize([]) == '{"objects": []}'
    assert "黑猫" in protocols["json"].serialize([item("黑猫")])


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=80)
@given(objects=object_sets)
@example(objects=[])
@example(objects=[item("kite", *range(6)), item("a", *[7] * 1000), item("cat"), item("kite", *range(8))])
@example(objects=[item(">red"), item("<"), item("]}"), item("\\"), item('"'), item("é黑🙂")])
def test_write_tokenise_read_gives_the_same_objects(protocols, tokenizer, name, objects):
    protocol = protocols[name]
    ids, slots = protocol.encode_with_slots(objects)
    assert ids == protocol.encode(objects)
    assert ids == tokenizer(protocol.serialize(objects), add_special_tokens=False)["input_ids"]
    parsed = protocol.parse(ids)
    assert [(found.desc, found.bins) for found in parsed.objects] == [(entry.desc, entry.bins) for entry in objects]
    assert [found.is_polygon for found in parsed.objects] == [entry.is_polygon for entry in objects]
    assert [found.slots for found in parsed.objects] == slots
    assert (parsed.dropped, parsed.truncated, parsed.ended, parsed.length) == ({}, False, False, len(ids))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=200)
@given(desc=st.one_of(texts, st.lists(st.sampled_from(TAGS + SPECIAL + STRUCTURE), max_size=4).map("".join)))
@example(desc="cafe\u0301")
@example(desc="\u0338")
def test_a_description_is_kept_to_the_letter_or_refused_for_a_reason(protocols, name, desc):
    protocol = protocols[name]
    try:
        ids = protocol.encode([SimpleNamespace(desc=desc, bins=(1, 2, 3, 4))])
    except ValueError as error:
        blank = not desc.strip()
        special = any(part in desc for part in SPECIAL)
        tag = name == "tags" and any(part in desc for part in TAGS)
        normalised = not unicodedata.is_normalized("NFC", f">{desc}")
        assert blank or special or tag or normalised
        assert "desc = " in str(error) and repr(name) in str(error)
    else:
        (found,) = protocol.parse(ids).objects
        assert found.desc == desc


# name, description, words of the message
REFUSED = [
    ("tags", "", "blank"),
    ("json", " \n", "blank"),
    ("json", None, "not a string"),
    ("tags", "\ud800", "surrogate"),
    ("json", "\ud800", "surrogate"),
    ("tags", "a</desc>b", "structure tag.*'json' protocol"),
    ("tags", "<obj>", "structure tag"),
    ("tags", "</poly>", "structure tag"),
    ("tags", "the end<|im_end|>", "special token"),
    ("json", "<|coord_5|>", "special token"),
    ("json", "cafe\u0301", "normalises.*NFC"),
    ("tags", "\u0338x", "normalises.*combining"),  # ">" and U+0338 become one character
]


@pytest.mark.parametrize(("name", "desc", "message"), REFUSED)
def test_refused_descriptions_name_value_and_remedy(protocols, name, desc, message):
    entry = SimpleNamespace(desc=desc, bins=(1, 2, 3, 4))
    for write in (protocols[name].encode, protocols[name].serialize, protocols[name].encode_with_slots):
        with pytest.raises(ValueError, match=message):
            write([entry])
    if desc is not None:  # None asks for the end of the set
        with pytest.raises(ValueError, match=message):
            protocols[name].gap_ids(desc, first=False)


# Boxes and polygons: too few, odd, outside the bins, no integers
REFUSED_BINS = [
    *(None, (), (1, 2), (1, 2, 3), (1, 2, 3, 1000), (-1, 2, 3, 4), (1.0, 2, 3, 4)),
    *((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 1000), (-1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6.0)),
]


@pytest.mark.parametrize("bins", REFUSED_BINS)
@pytest.mark.parametrize("name", NAMES)
def test_refused_bins(protocols, name, bins):
    entry = SimpleNamespace(desc="cat", bins=bins)
    for write in (protocols[name].encode, protocols[name].serialize):
        with pytest.raises(ValueError, match="bins = .*'cat'"):
            write([entry])


@pytest.mark.parametrize("name", NAMES)
def test_gaps_and_separators_make_up_the_encoding(protocols, name):
    protocol = protocols[name]
    objects = [item("black cat", 5, 6, 7, 8), item("dog", *range(9, 15)), item("kite", *range(8)), item("cat")]
    made, polygon = [], False
    for index, entry in enumerate(objects):
        made += protocol.gap_ids(entry.desc, index == 0, polygon=entry.is_polygon, after_polygon=polygon)
        polygon = entry.is_polygon
        for position, k in enumerate(entry.bins):
            made += (protocol.separator_ids if position else []) + [int(protocol.vocabulary.ids[k])]
    made += protocol.gap_ids(None, first=False)
    assert made == protocol.encode(objects)
    assert protocol.gap_ids(None, first=True) == protocol.encode([])
    protocol.gap_ids("dog", first=False).clear()  # the caller's own list
    assert made == protocol.encode(objects)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_array_is_read(protocols, name):
    protocol = protocols[name]
    ids = protocol.encode([item("cat"), item("dog")])
    expected = protocol.parse(ids)
    kinds = [
        tuple(ids),
        np.array(ids),
        np.array(ids, np.int32),
        torch.tensor(ids),
        list(np.array(ids)),
        list(torch.tensor(ids)),
    ]
    for kind in kinds:
        assert protocol.parse(kind) == expected
    with pytest.raises(ValueError, match="one completion"):
        protocol.parse(torch.tensor([ids]))


def test_the_end_tokens(protocols, tokenizer):
    expected = set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert protocols["tags"].end_ids == expected == {tokenizer.eos_token_id, tokenizer.pad_token_id}


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_survives_copying_and_pickling(protocols, name):
    objects = [item("black cat")]
    for twin in (pickle.loads(pickle.dumps(protocols[name])), copy.deepcopy(protocols[name])):
        assert (twin.name, twin.encode(objects)) == (name, protocols[name].encode(objects))


def test_unknown_protocol():
    with pytest.raises(ValueError, match="'xml'.*'tags', 'json'"):
        get_protocol("xml", None)


def test_a_processor_is_no_tokenizer(tokenizer):
    processor = build_tiny_processor(tokenizer)
    assert isinstance(processor, Qwen3VLProcessor)
    with pytest.raises(ValueError, match=r"processor\.tokenizer"):
        get_protocol("tags", processor)


def test_a_tokenizer_without_coordinate_tokens():
    with pytest.raises(ValueError, match="coordinate tokens are missing"):
        get_protocol("tags", build_tiny_tokenizer(num_bins=0))


def test_a_tokenizer_that_is_not_byte_level():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.add_tokens([AddedToken(f"<|coord_{k}|>", special=True, normalized=False) for k in range(1000)])
    with pytest.raises(ValueError, match="byte-level"):
        get_protocol("tags", tokenizer)


def test_structure_may_be_added_tokens_but_not_special_ones():
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAGS])
    protocol = get_protocol("tags", tokenizer)
    ids = protocol.encode([item("cat")])
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["<obj>", "<desc>"]
    assert [found.desc for found in protocol.parse(ids).objects] == ["cat"]
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(tag, special=True) for tag in TAGS])
    with pytest.raises(ValueError, match="special tokens"):
        get_protocol("tags", tokenizer)


def test_a_coordinate_token_that_swallows_spaces_is_refused():
    tokenizer = build_tiny_tokenizer(num_bins=0)
    tokenizer.add_tokens([AddedToken(f"<|coord_{k}|>", special=True, lstrip=True) for k in range(1000)])
    with pytest.raises(ValueError, match="lstrip"):
        get_protocol("json", tokenizer)

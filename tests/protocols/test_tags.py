# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading the `tags` protocol, case by case. `#` is a coordinate token, `€` the end token."""

import pytest

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.records import DetectionObject

GRID = CoordinateGrid()
CAT = "<obj><desc>cat</desc><box>####</box></obj>"
DOG = "<obj><desc>dog</desc><box>####</box></obj>"
KITE = "<obj><desc>kite</desc><poly>######</poly></obj>"

# text, descriptions read, drops, truncated
CASES = [
    ("", [], {}, False),  # the empty set
    ("€", [], {}, False),  # the empty set, ended
    (CAT, ["cat"], {}, False),  # a clean end without end token is not a truncation
    (CAT + DOG + "€", ["cat", "dog"], {}, False),  # order of appearance
    (CAT + CAT, ["cat", "cat"], {}, False),  # duplicates are kept
    (CAT + "€" + DOG, ["cat"], {}, False),  # nothing after the end token counts
    (CAT + "<|endoftext|>" + DOG, ["cat"], {}, False),  # padding ends, too
    ("<obj><desc>a < b > c</desc><box>####</box></obj>", ["a < b > c"], {}, False),  # brackets that are no tags
    ("<obj><desc> Cat\n</desc><box>####</box></obj>", [" Cat\n"], {}, False),  # kept to the letter
    ("<obj><desc>黑猫 é</desc><box>####</box></obj>", ["黑猫 é"], {}, False),  # characters spread over tokens
    ("<obj><desc>></desc><box>####</box></obj>", [">"], {}, False),  # "> ><" merge over the border
    # descriptions
    ("<obj><box>####</box></obj>" + DOG, ["dog"], {"missing_desc": 1}, False),  # no description
    ("<obj>cat<box>####</box></obj>" + DOG, ["dog"], {"missing_desc": 1}, False),  # without its tags
    ("<obj><desc>cat<box>####</box></obj>" + DOG, ["dog"], {"missing_desc": 1}, False),  # description not closed
    ("<obj> <desc>cat</desc><box>####</box></obj>", [], {"missing_desc": 1}, False),  # white space is not repaired
    ("<obj><box>####</box><desc>cat</desc></obj>", [], {"missing_desc": 1}, False),  # wrong order
    ("<obj></obj>" + DOG, ["dog"], {"missing_desc": 1}, False),  # nothing inside
    ("<obj><desc></desc><box>####</box></obj>" + DOG, ["dog"], {"empty_desc": 1}, False),  # empty
    ("<obj><desc> \n\u3000</desc><box>####</box></obj>", [], {"empty_desc": 1}, False),  # blank
    ("<obj><desc>c#t</desc><box>####</box></obj>" + DOG, ["dog"], {"bad_desc": 1}, False),  # coordinate inside
    ("<obj><desc>a<|vision_start|></desc><box>####</box></obj>", [], {"bad_desc": 1}, False),  # special token inside
    ("<obj><desc>a<desc>b</desc><box>####</box></obj>" + DOG, ["dog"], {"nested": 1}, False),  # tag inside
    ("<obj><desc>a</box>b</desc><box>####</box></obj>", [], {"nested": 1}, False),  # closing tag inside
    # boxes
    ("<obj><desc>cat</desc></obj>" + DOG, ["dog"], {"missing_box": 1}, False),  # no box
    ("<obj><desc>cat</desc>####</obj>", [], {"missing_box": 1}, False),  # box without its tags
    ("<obj><desc>cat</desc><box>####</obj>" + DOG, ["dog"], {"missing_box": 1}, False),  # box not closed
    ("<obj><desc>cat</desc> <box>####</box></obj>", [], {"missing_box": 1}, False),  # white space before it
    ("<obj><desc>cat</desc><desc>cat</desc><box>####</box></obj>", [], {"missing_box": 1}, False),  # described twice
    ("<obj><desc>cat</desc><box></box></obj>" + DOG, ["dog"], {"wrong_arity": 1}, False),  # none
    ("<obj><desc>cat</desc><box>###</box></obj>" + DOG, ["dog"], {"wrong_arity": 1}, False),  # three
    ("<obj><desc>cat</desc><box>#####</box></obj>" + DOG, ["dog"], {"wrong_arity": 1}, False),  # five
    ("<obj><desc>cat</desc><box>########</box></obj>", [], {"wrong_arity": 1}, False),  # two boxes in one
    ("<obj><desc>cat</desc><box>#, #, #, #</box></obj>", [], {"text_in_box": 1}, False),  # separators of `json`
    ("<obj><desc>cat</desc><box>12 7 8 9</box></obj>" + DOG, ["dog"], {"text_in_box": 1}, False),  # digits
    ("<obj><desc>cat</desc><box>####\n</box></obj>", [], {"text_in_box": 1}, False),  # white space
    ("<obj><desc>cat</desc><box>##<|coord_*|>#</box></obj>", [], {"text_in_box": 1}, False),  # wildcard, no coordinate
    ("<obj><desc>cat</desc><box><box>####</box></obj>", [], {"nested": 1}, False),  # box in a box
    ("<obj><desc>cat</desc><box>####</box>!</obj>" + DOG, ["dog"], {"extra_text": 1}, False),  # text after the box
    ("<obj><desc>cat</desc><box>####</box><box>####</box></obj>", [], {"extra_text": 1}, False),  # second box
    # polygons
    (KITE, ["kite"], {}, False),  # a triangle
    (CAT + KITE + DOG + KITE + "€", ["cat", "kite", "dog", "kite"], {}, False),  # beside boxes
    (KITE.replace("######", "#" * 100), ["kite"], {}, False),  # fifty vertices
    (KITE.replace("######", "") + DOG, ["dog"], {"wrong_arity": 1}, False),  # none
    (KITE.replace("######", "####") + DOG, ["dog"], {"wrong_arity": 1}, False),  # two vertices
    (KITE.replace("######", "#####") + DOG, ["dog"], {"wrong_arity": 1}, False),  # half a vertex missing
    (KITE.replace("######", "#######") + DOG, ["dog"], {"wrong_arity": 1}, False),  # half a vertex too many
    (KITE.replace("######", "###, ###") + DOG, ["dog"], {"text_in_box": 1}, False),  # text inside
    (KITE.replace("######", "###<poly>###") + DOG, ["dog"], {"nested": 1}, False),  # a polygon in a polygon
    (KITE.replace("</poly>", "</box>") + DOG, ["dog"], {"missing_box": 1}, False),  # closed as a box
    (KITE.replace("<poly>", "<box>") + DOG, ["dog"], {"missing_box": 1}, False),  # opened as a box
    (KITE.replace("</poly>", "") + DOG, ["dog"], {"missing_box": 1}, False),  # not closed
    (KITE.replace("</poly>", "</poly> ") + DOG, ["dog"], {"extra_text": 1}, False),  # text after it
    (KITE.replace("</obj>", "<box>####</box></obj>"), [], {"extra_text": 1}, False),  # its box, too
    (KITE.replace("kite", "a<poly>b"), [], {"nested": 1}, False),  # tag in the description
    (KITE.replace("kite", " "), [], {"empty_desc": 1}, False),  # blank description
    (CAT + KITE.replace("</poly></obj>", ""), ["cat"], {}, True),  # cut in the polygon
    (CAT + KITE.replace("</obj>", ""), ["cat"], {}, True),  # cut behind it
    (CAT + KITE.replace("#</poly></obj>", "€"), ["cat"], {"incomplete": 1}, False),  # ended in the polygon
    # objects
    ("<obj>" + CAT, ["cat"], {"nested": 1}, False),  # opened twice: the inner one is complete
    ("<obj><desc>cat</desc><box>####</box>" + DOG, ["dog"], {"nested": 1}, False),  # not closed
    ("<obj><desc>cat" + DOG + "</obj>", ["dog"], {"nested": 1, "stray": 1}, False),  # object in a description
    ("<obj><desc>a</obj>b</desc><box>####</box></obj>", [], {"missing_desc": 1, "stray": 1}, False),  # closed early
    # outside of objects
    ("I see " + CAT, ["cat"], {"stray": 1}, False),  # text before
    (CAT + "\n" + DOG, ["cat", "dog"], {"stray": 1}, False),  # white space between
    (CAT + "##" + DOG + "and so on€", ["cat", "dog"], {"stray": 2}, False),  # two runs
    (CAT + "</obj></box>" + DOG, ["cat", "dog"], {"stray": 1}, False),  # closing tags alone, one run
    ("####", [], {"stray": 1}, False),  # coordinates alone
    ("no objects here", [], {"stray": 1}, False),  # prose
    # ends
    (CAT + "<obj><desc>dog</desc><box>##", ["cat"], {}, True),  # cut in the box
    (CAT + "<obj><desc>dog</desc><box>####</box></ob", ["cat"], {}, True),  # cut in the last tag
    (CAT + "<ob", ["cat"], {}, True),  # cut in the first tag
    (CAT + "text<", ["cat"], {"stray": 1}, True),  # stray text, then perhaps an object
    (CAT + "<b", ["cat"], {"stray": 1}, False),  # no beginning of an object
    (CAT + "<obj><desc>dog</desc><box>##€", ["cat"], {"incomplete": 1}, False),  # ended inside an object
    (CAT + "<ob€", ["cat"], {"stray": 1}, False),  # ended: no longer a beginning
]


@pytest.mark.parametrize(("text", "descs", "dropped", "truncated"), CASES)
def test_case(protocols, to_ids, text, descs, dropped, truncated):
    parsed = protocols["tags"].parse(to_ids(text))
    assert [item.desc for item in parsed.objects] == descs
    assert parsed.dropped == dropped
    assert parsed.truncated == truncated


def test_a_complete_object_in_all_its_fields(protocols, to_ids, tokenizer):
    ids = to_ids(CAT + DOG + "€" + CAT)
    parsed = protocols["tags"].parse(ids)
    cat, dog = parsed.objects
    assert (cat.bins, dog.bins) == ((0, 1, 2, 3), (4, 5, 6, 7))
    for item in parsed.objects:
        assert tokenizer.convert_ids_to_tokens([ids[slot] for slot in item.slots]) == [
            f"<|coord_{k}|>" for k in item.bins
        ]
    assert (
        tokenizer.decode(ids[slice(*cat.span)])
        == "<obj><desc>cat</desc><box>" + "".join(f"<|coord_{k}|>" for k in range(4)) + "</box></obj><"
    )  # one token holds "><": it belongs to both objects
    assert cat.span[1] == dog.span[0] + 1
    assert parsed.complete_end == dog.span[1] == parsed.length == ids.index(tokenizer.eos_token_id)
    assert parsed.ended and not parsed.truncated


@pytest.mark.parametrize(
    ("bins", "valid"),
    [((1, 1, 2, 2), True), ((2, 1, 1, 2), False), ((1, 2, 2, 1), False), ((1, 1, 1, 2), False), ((1, 1, 2, 1), False)],
)
def test_degenerate_boxes_are_read_as_they_are(protocols, tokenizer, bins, valid):
    coordinates = "".join(f"<|coord_{k}|>" for k in bins)
    ids = tokenizer(f"<obj><desc>a</desc><box>{coordinates}</box></obj>")["input_ids"]
    (item,) = protocols["tags"].parse(ids).objects
    assert (item.bins, item.valid_geometry) == (bins, valid)


@pytest.mark.parametrize(
    ("bins", "valid", "box"),
    [
        ((10, 20, 30, 20, 20, 60), True, (10, 20, 30, 60)),
        ((10, 20, 30, 60, 30, 20, 10, 60), True, (10, 20, 30, 60)),  # crosses itself
        ((5, 5, 5, 5, 5, 5), False, (5, 5, 6, 6)),  # a point
        ((999, 5, 999, 9, 999, 7), False, (998, 5, 999, 9)),  # a line at the border
    ],
)
def test_a_polygon_and_its_box(protocols, bins, valid, box):
    (item,) = protocols["tags"].parse(protocols["tags"].encode([DetectionObject(desc="a", bins=bins)])).objects
    assert (item.bins, item.is_polygon, item.valid_geometry, item.box_bins(GRID)) == (bins, True, valid, box)
    assert DetectionObject(desc="a", bins=bins).box_bins(640, 480, GRID) == box  # the same rule


def test_the_box_of_a_box_is_as_written(protocols):
    bins = (30, 30, 10, 30)
    (item,) = protocols["tags"].parse(protocols["tags"].encode([DetectionObject(desc="a", bins=bins)])).objects
    assert (item.is_polygon, item.box_bins(GRID)) == (False, bins)

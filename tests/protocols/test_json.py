# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reading the `json` protocol, case by case. `#` is a coordinate token, `€` the end token."""

import pytest

CAT = '{"desc": "cat", "bbox_2d": [#, #, #, #]}'
DOG = '{"desc": "dog", "bbox_2d": [#, #, #, #]}'
KITE = '{"desc": "kite", "poly": [#, #, #, #, #, #]}'


def written(*objects: str) -> str:
    return '{"objects": [' + ", ".join(objects) + "]}"


# text, descriptions read, drops, truncated
CASES = [
    (written(), [], {}, False),  # the empty set
    (written() + "€", [], {}, False),  # the empty set, ended
    (written(CAT), ["cat"], {}, False),  # closed without end token
    (written(CAT, DOG) + "€", ["cat", "dog"], {}, False),  # order of appearance
    (written(CAT, CAT), ["cat", "cat"], {}, False),  # duplicates are kept
    (written(CAT) + "€" + written(DOG), ["cat"], {}, False),  # nothing after the end token counts
    (written(CAT) + "<|endoftext|>" + DOG, ["cat"], {}, False),  # padding ends, too
    (
        '\n{ "objects"\t:[\n {"desc":"cat" ,"bbox_2d":[#,#,\r\n# , # ] }\n,{"desc":  "dog","bbox_2d":[ #,#,#,#]} ] } ',
        ["cat", "dog"],
        {},
        False,
    ),  # white space as JSON has it
    # strings
    (written(CAT.replace("cat", r"a \"b\" \\ \u00e9 \n")), ['a "b" \\ é \n'], {}, False),  # escapes
    (written(CAT.replace("cat", r"\ud83d\ude42")), ["🙂"], {}, False),  # surrogate pair
    (written(CAT.replace("cat", r"{\"desc\": \"x\", \"bbox_2d\": [")), ['{"desc": "x", "bbox_2d": ['], {}, False),
    (written(CAT.replace("cat", "a}]} {"), DOG), ["a}]} {", "dog"], {}, False),  # structure characters inside
    (written(CAT.replace("cat", " 黑猫 ")), [" 黑猫 "], {}, False),  # kept to the letter
    (written(CAT.replace("cat", ""), DOG), ["dog"], {"empty_desc": 1}, False),  # empty
    (written(CAT.replace("cat", r" \n\u3000"), DOG), ["dog"], {"empty_desc": 1}, False),  # blank
    (written(CAT.replace("cat", r"\x"), DOG), ["dog"], {"bad_desc": 1}, False),  # no such escape
    (written(CAT.replace("cat", r"\u12"), DOG), ["dog"], {"bad_desc": 1}, False),  # short escape
    (written(CAT.replace("cat", r"a}\ud800"), DOG), ["dog"], {"bad_desc": 1}, False),  # lone surrogate
    (written(CAT.replace("cat", "a\nb"), DOG), ["dog"], {"bad_desc": 1}, False),  # raw control character
    (written(CAT.replace("cat", "c#t"), DOG), ["dog"], {"bad_desc": 1}, False),  # coordinate inside
    (written(CAT.replace("cat", "<|image_pad|>"), DOG), ["dog"], {"bad_desc": 1}, False),  # special token inside
    (written(CAT.replace('"cat"', "7"), DOG), ["dog"], {"bad_desc": 1}, False),  # not a string
    (written(CAT.replace('"cat"', '"cat'), DOG), ["dog"], {"missing_box": 1}, False),  # the next quote ends the string
    (written(CAT.replace('"cat"', '"cat\\"'), DOG), ["dog"], {"missing_box": 1}, False),  # escaped by mistake
    (
        written('{"desc": " "}', r'{"desc": "\x"}'),
        [],
        {"empty_desc": 1, "bad_desc": 1},
        False,
    ),  # before the missing box
    # keys
    (written('{"bbox_2d": [#, #, #, #]}', DOG), ["dog"], {"missing_desc": 1}, False),  # no description
    (written('{"bbox_2d": [#, #, #, #], "desc": "cat"}', DOG), ["dog"], {"missing_desc": 1}, False),  # wrong order
    (written('{"label": "cat", "bbox_2d": [#, #, #, #]}', DOG), ["dog"], {"missing_desc": 1}, False),  # other key
    (written('{"desc": "cat"}', DOG), ["dog"], {"missing_box": 1}, False),  # no box
    (written(CAT.replace("bbox_2d", "bbox_0d"), DOG), ["dog"], {"missing_box": 1}, False),  # other key
    (written(CAT.replace(": [", ": "), DOG), ["dog"], {"missing_box": 1}, False),  # box not opened
    (written('{"desc": "a", "desc": "b", "bbox_2d": [#, #, #, #]}'), [], {"missing_box": 1}, False),  # described twice
    # boxes
    (written(CAT.replace("#, #, #, #", ""), DOG), ["dog"], {"wrong_arity": 1}, False),  # none
    (written(CAT.replace("#, #, #, #", "#, #, #"), DOG), ["dog"], {"wrong_arity": 1}, False),  # three
    (written(CAT.replace("#, #, #, #", "#, #, #, #, #"), DOG), ["dog"], {"wrong_arity": 1}, False),  # five
    (written(CAT.replace("#, #, #, #", "####"), DOG), ["dog"], {"text_in_box": 1}, False),  # separators of `tags`
    (written(CAT.replace("#, #, #, #", "#, #, #, #,"), DOG), ["dog"], {"text_in_box": 1}, False),  # comma too many
    (written(CAT.replace("#, #, #, #", '"#", "#", "#", "#"'), DOG), ["dog"], {"text_in_box": 1}, False),  # quoted
    (written(CAT.replace("#, #, #, #", "1, 2, 3, 4"), DOG), ["dog"], {"text_in_box": 1}, False),  # digits
    (written(CAT.replace("#, #, #, #", "[#, #], [#, #]"), DOG), ["dog"], {"text_in_box": 1}, False),  # pairs
    (written(CAT.replace("]}", "}"), DOG), ["dog"], {"text_in_box": 1}, False),  # box not closed
    (written(CAT.replace("]}", '], "score": 1}'), DOG), ["dog"], {"extra_text": 1}, False),  # another key
    (written(CAT.replace("]}", ",]}"), DOG), ["dog"], {"text_in_box": 1}, False),  # comma too many
    (written(CAT.replace("]}", "],}"), DOG), ["dog"], {"extra_text": 1}, False),  # comma too many
    # polygons
    (written(KITE), ["kite"], {}, False),  # a triangle
    (written(CAT, KITE, DOG, KITE) + "€", ["cat", "kite", "dog", "kite"], {}, False),  # beside boxes
    (written(KITE.replace("[#", "[ #, #\n, #, #")), [], {"wrong_arity": 1}, False),  # nine
    (written(KITE.replace("[#", "[ #\t,\n# , #")), ["kite"], {}, False),  # white space, four vertices
    (written(KITE.replace("[#", "[#" + ", #" * 94)), ["kite"], {}, False),  # fifty vertices
    (written(KITE.replace("#, #, #, #, #, #", ""), DOG), ["dog"], {"wrong_arity": 1}, False),  # none
    (written(KITE.replace("#, #, #, #, #, #", "#, #, #, #"), DOG), ["dog"], {"wrong_arity": 1}, False),  # a box
    (written(KITE.replace("#, #]", "#]"), DOG), ["dog"], {"wrong_arity": 1}, False),  # half a vertex missing
    (written(KITE.replace('"poly"', '"bbox_2d"'), DOG), ["dog"], {"wrong_arity": 1}, False),  # as a box
    (written(KITE.replace('"poly"', '"polygon"'), DOG), ["dog"], {"missing_box": 1}, False),  # other key
    (written(KITE.replace("#]", "#,]"), DOG), ["dog"], {"text_in_box": 1}, False),  # comma too many
    (written(KITE.replace("[#, #,", "[[#, #],"), DOG), ["dog"], {"text_in_box": 1}, False),  # pairs
    (written(KITE.replace("]}", '], "bbox_2d": [#, #, #, #]}'), DOG), ["dog"], {"extra_text": 1}, False),  # both
    (written(KITE.replace("kite", " "), DOG), ["dog"], {"empty_desc": 1}, False),  # blank description
    (written(KITE.replace("kite", r"\x"), DOG), ["dog"], {"bad_desc": 1}, False),  # no such escape
    (written(CAT, KITE)[:-6], ["cat"], {}, True),  # cut in the polygon
    (written(CAT, KITE)[:-6] + "€", ["cat"], {"incomplete": 1}, False),  # ended in the polygon
    # objects
    (written(CAT.replace("]}", "]"), DOG), ["dog"], {"nested": 1}, False),  # not closed
    (written('{"desc": "cat', DOG), ["dog"], {"nested": 1}, False),  # the string is not closed
    (written('{"desc": ' + CAT + "}"), ["cat"], {"nested": 1, "stray": 1}, False),  # object in an object
    # outside of objects
    ("Sure!\n" + written(CAT), ["cat"], {"stray": 1}, False),  # text before
    (written(CAT) + "\nDone.", ["cat"], {"stray": 1}, False),  # text after
    ("```json\n" + written(CAT) + "\n```€", ["cat"], {"stray": 2}, False),  # fenced
    (written(CAT + " " + DOG), ["cat", "dog"], {"stray": 1}, False),  # no comma: the objects are whole
    (written(CAT, "", DOG), ["cat", "dog"], {"stray": 1}, False),  # two commas
    (written(CAT, "#, #", DOG), ["cat", "dog"], {"stray": 1}, False),  # coordinates alone
    (written(CAT, "{}", DOG), ["cat", "dog"], {"stray": 1}, False),  # an object without keys
    (f"[{CAT}, {DOG}]", ["cat", "dog"], {"stray": 1}, True),  # a bare list: whole objects in a set that is not closed
    (written(CAT) + written(DOG), ["cat", "dog"], {"stray": 1}, False),  # two sets
    ("no objects here€", [], {"stray": 1, "unclosed": 1}, False),  # prose
    ("Nothing. " + written(), [], {"stray": 1}, False),  # prose and the empty set
    # ends
    ("", [], {}, True),  # the set was not even opened
    ('{"obj', [], {}, True),  # cut in the opening
    ('{"objects":', [], {}, True),  # cut before the list
    ('{"objects": [{"de', [], {}, True),  # cut in the first key
    (written(CAT)[:-2], ["cat"], {}, True),  # cut between objects
    (written(CAT)[:-2] + ', {"de', ["cat"], {}, True),  # cut in a key
    (written(CAT)[:-2] + ', {"desc": "a}b', ["cat"], {}, True),  # cut in a string, braces in it are text
    (written(CAT)[:-2] + ', {"desc": "dog", "bbox_2d": [#, #', ["cat"], {}, True),  # cut in the box
    (written(CAT)[:-1], ["cat"], {}, True),  # cut in the close
    (written(CAT)[:-2] + ", oops", ["cat"], {"stray": 1}, True),  # stray text, not closed
    (written(CAT)[:-2] + ', {"desc": "dog", "bbox_2d": [#€', ["cat"], {"incomplete": 1}, False),  # ended in an object
    (written(CAT)[:-2] + "€", ["cat"], {"unclosed": 1}, False),  # ended before the close
    ("€", [], {"unclosed": 1}, False),  # nothing at all
]


@pytest.mark.parametrize(("text", "descs", "dropped", "truncated"), CASES)
def test_case(protocols, to_ids, text, descs, dropped, truncated):
    parsed = protocols["json"].parse(to_ids(text))
    assert [item.desc for item in parsed.objects] == descs
    assert parsed.dropped == dropped
    assert parsed.truncated == truncated


def test_a_complete_object_in_all_its_fields(protocols, to_ids, tokenizer):
    ids = to_ids(written(CAT, DOG) + "€" + CAT)
    parsed = protocols["json"].parse(ids)
    cat, dog = parsed.objects
    assert (cat.bins, dog.bins) == ((0, 1, 2, 3), (4, 5, 6, 7))
    for item in parsed.objects:
        assert tokenizer.convert_ids_to_tokens([ids[slot] for slot in item.slots]) == [
            f"<|coord_{k}|>" for k in item.bins
        ]
    box = ", ".join(f"<|coord_{k}|>" for k in range(4))
    assert tokenizer.decode(ids[slice(*cat.span)]) == ' [{"desc": "cat", "bbox_2d": [' + box + "]}"
    assert parsed.complete_end == dog.span[1] == parsed.length - 1  # the last token closes the set
    assert parsed.length == ids.index(tokenizer.eos_token_id)
    assert parsed.ended and not parsed.truncated

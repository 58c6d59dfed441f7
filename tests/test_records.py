# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.records."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.records import (
    DetectionObject,
    DetectionRecord,
    RecordError,
    iter_records,
    read_records,
    write_records,
)

GRID = CoordinateGrid()
BOX = {"desc": "cat", "bbox_2d": [10, 20, 110, 220]}
TOKENS = ["<|coord_1|>", "<|coord_2|>", "<|coord_30|>", "<|coord_40|>"]


def line(objects=(BOX,), **changes):
    raw = {"images": ["a.jpg"], "width": 640, "height": 480, "objects": list(objects)} | changes
    return json.dumps({key: value for key, value in raw.items() if value is not ...}).encode()


def obj(**changes):
    return {key: value for key, value in (BOX | changes).items() if value is not ...}


def write(tmp_path, *lines, name="train.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"\n".join(lines))
    return path


class TestDetectionObject:
    def test_sequences_become_tuples(self):
        assert DetectionObject(desc="cat", bins=[110, 310, 410, 705]).bins == (110, 310, 410, 705)
        box = DetectionObject("cat", bbox_2d=np.array([1, 2, 3, 4], dtype=np.float32)).bbox_2d
        assert box == (1.0, 2.0, 3.0, 4.0) and all(type(value) is float for value in box)
        bins = DetectionObject("cat", bins=np.arange(6)).bins
        assert bins == (0, 1, 2, 3, 4, 5) and all(type(value) is int for value in bins)
        assert DetectionObject("cat", bbox_2d=[np.float64(1), np.int32(2), 3, 4]).bbox_2d == (1, 2, 3, 4)

    def test_hashable_and_picklable(self):
        item = DetectionObject("cat", poly=[0, 0, 1, 0, 1, 1])
        assert pickle.loads(pickle.dumps(item)) == item and len({item, item}) == 1
        with pytest.raises(AttributeError):
            item.desc = "dog"

    @pytest.mark.parametrize(
        ("fields", "part"),
        [
            ({"desc": "", "bins": (1, 2, 3, 4)}, "desc = ''"),
            ({"desc": " \t\n", "bins": (1, 2, 3, 4)}, "blank"),
            ({"desc": None, "bins": (1, 2, 3, 4)}, "desc = None"),
            ({"desc": 5, "bins": (1, 2, 3, 4)}, "desc = 5"),
            ({"desc": "a\ud800", "bins": (1, 2, 3, 4)}, "Unicode"),  # cannot be tokenized or written
            ({"desc": "cat"}, "got none"),
            ({"desc": "cat", "bins": (1, 2, 3, 4), "bbox_2d": (1, 2, 3, 4)}, "got bbox_2d and bins"),
            ({"desc": "cat", "bbox_2d": (1, 2, 3)}, "bbox_2d = (1, 2, 3): must hold 4 values x1, y1, x2, y2, got 3"),
            ({"desc": "cat", "bbox_2d": ()}, "got 0"),
            ({"desc": "cat", "poly": (1, 2, 3, 4)}, "at least 6 values"),
            ({"desc": "cat", "poly": (1, 2, 3, 4, 5, 6, 7)}, "even number"),
            ({"desc": "cat", "bins": (1, 2, 3, 4, 5)}, "got 5"),
            ({"desc": "cat", "bins": (1, 2)}, "got 2"),
            ({"desc": "cat", "bins": (1.0, 2, 3, 4)}, "1.0 is not a bin"),
            ({"desc": "cat", "bins": (-1, 2, 3, 4)}, "-1 is not a bin"),
            ({"desc": "cat", "bins": (True, 2, 3, 4)}, "True is not a bin"),
            ({"desc": "cat", "bbox_2d": (1, 2, 3, False)}, "False is not a finite number"),
            ({"desc": "cat", "bbox_2d": (1, 2, 3, float("nan"))}, "nan is not a finite number"),
            ({"desc": "cat", "bbox_2d": (1, 2, 3, 10**400)}, "is not a finite number"),  # overflows a float
            ({"desc": "cat", "bbox_2d": (1, 2, 3, "4")}, "'4' is not a finite number"),
            ({"desc": "cat", "bbox_2d": "1234"}, "must be a list"),
            ({"desc": "cat", "bbox_2d": 5}, "must be a list"),
            ({"desc": "cat", "poly": [[0, 0], [1, 0], [1, 1]]}, "got 3"),  # pairs instead of a flat list
        ],
    )
    def test_bad_objects(self, fields, part):
        with pytest.raises(ValueError) as error:
            DetectionObject(**fields)
        assert part in str(error.value)

    @pytest.mark.parametrize(
        ("fields", "is_polygon", "bins", "pixels"),
        [
            ({"bbox_2d": (0, 120, 320, 480)}, False, (0, 250, 500, 999), (0, 120, 320, 480)),
            ({"poly": (320, 120, 0, 480, 10, 200)}, True, (0, 250, 500, 999), (0, 120, 320, 480)),  # enclosing box
            ({"bins": (0, 999, 999, 0)}, False, (0, 999, 999, 0), (0, 480, 640, 0)),  # inverted bins pass through
            ({"bins": (999, 0, 0, 0, 0, 999)}, True, (0, 0, 999, 999), (0, 0, 640, 480)),  # polygon in bins
            ({"bbox_2d": (0, 0, 0.001, 480)}, False, (0, 0, 1, 999), (0, 0, 0.001, 480)),  # never collapsed
            ({"bins": (5, 0, 5, 9, 5, 999)}, True, (5, 0, 6, 999), None),  # a thin polygon has a box as well
        ],
    )
    def test_boxes(self, fields, is_polygon, bins, pixels):
        item = DetectionObject("cat", **fields)
        assert item.is_polygon == is_polygon
        assert item.box_bins(640, 480, GRID) == bins
        if pixels:
            assert item.pixel_box(640, 480, GRID) == pixels
            assert item.unit_box(640, 480, GRID) == tuple(np.divide(pixels, [640, 480, 640, 480]))

    def test_unit_box_is_not_quantised(self):
        assert DetectionObject("cat", bbox_2d=(1, 1, 2, 2)).unit_box(3, 7, GRID) == (1 / 3, 1 / 7, 2 / 3, 2 / 7)
        assert DetectionObject("cat", bins=(1, 1, 2, 2)).unit_box(3, 7, GRID) == (1 / 999, 1 / 999, 2 / 999, 2 / 999)

    def test_inverted_pixels_have_no_bins(self):
        with pytest.raises(ValueError, match="inverted"):
            DetectionObject("cat", bbox_2d=(10, 0, 5, 5)).box_bins(640, 480, GRID)


class TestDetectionRecord:
    def test_image_path(self):
        assert DetectionRecord(["a/b.jpg"], 1, 1, []).image_path == Path("a/b.jpg")
        assert DetectionRecord(["a/b.jpg"], 1, 1, [], root=Path("/data")).image_path == Path("/data/a/b.jpg")
        assert DetectionRecord(["/x/b.jpg", "c.jpg"], 1, 1, [], root=Path("/data")).image_path == Path("/x/b.jpg")

    def test_sorted_objects_do_not_depend_on_input_order(self):
        objects = [
            DetectionObject("z", bbox_2d=(50, 0, 60, 10)),  # topmost
            DetectionObject("z", bbox_2d=(0, 10, 5, 20)),  # then left before right
            DetectionObject("z", bbox_2d=(1, 10, 4, 15)),
            DetectionObject("z", bbox_2d=(1, 10, 4, 20)),  # then by y2
            DetectionObject("a", bbox_2d=(1, 10, 9, 20)),  # then by x2
            DetectionObject("b", bbox_2d=(1, 10, 9, 20)),  # then by description
            DetectionObject("c", poly=(1, 10, 9, 10, 9, 20)),  # then by the vertices
            DetectionObject("c", poly=(1, 20, 9, 10, 9, 20)),
        ]
        for order in itertools.islice(itertools.permutations(objects), 0, None, 997):
            assert DetectionRecord(["a.jpg"], 100, 100, order).sorted_objects(GRID) == tuple(objects)

    def test_pixels_and_bins_do_not_mix(self):
        objects = [DetectionObject("a", bbox_2d=(0, 0, 1, 1)), DetectionObject("a", bins=(0, 0, 1, 1))]
        with pytest.raises(RecordError, match="pixels, others in coordinate tokens"):
            DetectionRecord(["a.jpg"], 10, 10, objects)

    def test_hash_with_metadata(self):
        record = DetectionRecord(["a.jpg"], 10, 10, [], metadata={"id": 5})
        assert hash(record) == hash(pickle.loads(pickle.dumps(record)))


BAD_LINES = [
    # JSON itself
    (b'{"images": ["a.jpg"], "width": }', ["column 32", "invalid JSON"]),
    (b'[{"images": ["a.jpg"]}]', ["not a JSON object", "one JSON object a line", "coordexp data convert"]),
    (b"5", ["not a JSON object", "5"]),
    (line() + line(), ["column", "Extra data"]),  # two records on a line
    (line()[:-5], ["column", "invalid JSON"]),  # cut off
    (b"[" * 100_000, ["invalid JSON"]),  # nested beyond the recursion limit
    (b'{"width": ' + b"9" * 5000 + b"}", ["invalid JSON"]),  # more digits than int() accepts
    (line(objects=[obj(desc="?")]).replace(b"?", b"\xff"), ["byte", "UTF-8"]),
    ("{}".encode("utf-16"), ["byte 1 ", "UTF-8"]),
    # fields of the record
    (line(images=...), ["images: is missing", "Required: images, width, height, objects"]),
    (line(images=[]), ["images = []", "at least one path"]),
    (line(images="a.jpg"), ["images = 'a.jpg'", "list"]),
    (line(images=[5]), ["images[0] = 5", "path"]),
    (line(images=["a.jpg", ""]), ["images[1] = ''", "path"]),
    (line(images=["a\0.jpg"]), ["images[0] = ", "path"]),
    (line(images=["../a.jpg"]), ["images[0] = '../a.jpg'", "leaves the image root"]),
    (line(images=["x/../../a.jpg"]), ["images[0]", "leaves the image root"]),
    (line(width=...), ["width: is missing"]),
    (line(width=0), ["width = 0", "positive integer"]),
    (line(width=None), ["width = None", "positive integer"]),
    (line(height=-480), ["height = -480", "positive integer"]),
    (line(height=480.0), ["height = 480.0", "positive integer"]),
    (line(height="480"), ["height = '480'", "positive integer"]),
    (line(height=True), ["height = True", "positive integer"]),
    (line(width=10**400), ["width = 1000", "positive integer"]),
    (line(width=float("nan")), ["width = nan", "positive integer"]),
    (line(summary=5), ["summary = 5", "string"]),
    (line(metadata=[1]), ["metadata = [1]", "object"]),
    (line(image="a.jpg"), ["image: unknown field", "'images'", "metadata"]),
    (line(Width=640), ["Width: unknown field", "'width'"]),
    (line(annotations=[]), ["annotations: unknown field", "nearest"]),
    (line(root="/"), ["root: unknown field"]),  # a field of the class is not a field of the file
    # objects
    (b'{"images": ["a.jpg"], "width": 640, "height": 480}', ["objects: is missing"]),
    (line().replace(b'"objects": [', b'"objects": {"a": [').replace(b"]}]}", b"]}]}}"), ["objects = {", "list"]),
    (b'{"images": ["a.jpg"], "width": 640, "height": 480, "objects": null}', ["objects = None", "list"]),
    (line([BOX, 5]), ["objects[1] = 5", "JSON object"]),
    (line([obj(desc=...)]), ["objects[0].desc: is missing"]),
    (line([obj(desc=None)]), ["objects[0].desc = None"]),
    (line([BOX, BOX, BOX, obj(desc="  ")]), ["objects[3].desc = '  '", "blank"]),
    (line([obj(desc="\ud800")]), ["objects[0].desc", "Unicode"]),
    (line([obj(label="cat")]), ["objects[0].label: unknown field", "metadata of the record"]),
    (line([obj(bbox=[1, 2, 3, 4])]), ["objects[0].bbox: unknown field", "'bbox_2d'"]),
    (line([obj(bins=[1, 2, 3, 4])]), ["objects[0].bins: unknown field"]),  # files write bins as tokens
    # geometry
    (line([obj(bbox_2d=...)]), ["objects[0]: exactly one of bbox_2d and poly", "neither"]),
    (line([obj(bbox_2d=None)]), ["objects[0]: exactly one of bbox_2d and poly", "neither"]),
    (line([obj(poly=[0, 0, 9, 0, 9, 9])]), ["objects[0]: exactly one of bbox_2d and poly", "both"]),
    (line([obj(bbox_2d="10 20 110 220")]), ["objects[0].bbox_2d = '10 20 110 220'", "list"]),
    (line([obj(bbox_2d={"x": 1})]), ["objects[0].bbox_2d = {'x': 1}", "list"]),
    (line([BOX, obj(bbox_2d=[1, 2, 3])]), ["objects[1].bbox_2d = [1, 2, 3]", "4 values", "got 3"]),
    (line([obj(bbox_2d=[])]), ["objects[0].bbox_2d = []", "got 0"]),
    (line([obj(bbox_2d=TOKENS[:3])]), ["objects[0].bbox_2d = ['<|coord_1|>'", "4 values", "got 3"]),
    (line([obj(bbox_2d=..., poly=[0, 0, 9, 0])]), ["objects[0].poly = [0, 0, 9, 0]", "at least 6", "got 4"]),
    (line([obj(bbox_2d=..., poly=[0, 0, 9, 0, 9, 9, 1])]), ["objects[0].poly", "even number", "got 7"]),
    (line([obj(bbox_2d=..., poly=[[0, 0, 9, 0, 9, 9]])]), ["objects[0].poly = [[0, 0", "got 1"]),  # COCO's nesting
    (line([obj(bbox_2d=[1, 2, float("nan"), 4])]), ["objects[0].bbox_2d", "nan", "finite"]),
    (line([obj(bbox_2d=[1, 2, float("inf"), 4])]), ["objects[0].bbox_2d", "inf", "finite"]),
    (line([obj(bbox_2d=[1, 2, True, 4])]), ["objects[0].bbox_2d", "True is not a finite number"]),
    (line([obj(bbox_2d=[1, 2, None, 4])]), ["objects[0].bbox_2d", "None is not a finite number"]),
    (line([obj(bbox_2d=[1, 2, 10**400, 4])]), ["objects[0].bbox_2d", "not a finite number"]),
    (line([obj(bbox_2d=["1", "2", "3", "4"])]), ["objects[0].bbox_2d", "'1' is neither", "'<|coord_12|>'"]),
    (line([obj(bbox_2d=["<|coord_01|>"] + TOKENS[1:])]), ["'<|coord_01|>' is neither"]),
    (line([obj(bbox_2d=TOKENS[:3] + ["<|coord_1000|>"])]), ["objects[0].bbox_2d", "<|coord_1000|>", "0..999"]),
    (line([obj(bbox_2d=TOKENS[:3] + [40])]), ["objects[0].bbox_2d", "mixes numbers and coordinate tokens"]),
    (line([obj(bbox_2d=[1] + TOKENS[1:])]), ["objects[0].bbox_2d", "mixes numbers and coordinate tokens"]),
    (line([BOX, obj(bbox_2d=TOKENS)]), ["objects: some are in pixels, others in coordinate tokens"]),
    (line([obj(bbox_2d=[300, 20, 100, 220])]), ["objects[0].bbox_2d = [300, 20, 100, 220]", "inverted", "xywh"]),
    (line([obj(bbox_2d=[10, 20, 10, 220])]), ["objects[0].bbox_2d", "no area"]),
    (line([obj(bbox_2d=TOKENS[2:] + TOKENS[:2])]), ["objects[0].bbox_2d", "inverted"]),
    (line([obj(bbox_2d=[10, 20, 640.01, 220])]), ["objects[0].bbox_2d", "640 x 480", "width and height"]),
    (line([obj(bbox_2d=[10, 20, 11, 999])]), ["outside the image of 640 x 480", "1000-scaled"]),
    (line([obj(bbox_2d=[-0.01, 20, 110, 220])]), ["objects[0].bbox_2d", "outside"]),
    (line([obj(bbox_2d=..., poly=[0, 0, 9, 0, 9, 481])]), ["objects[0].poly", "outside"]),
]


class TestReadRecords:
    @pytest.mark.parametrize(("bad", "parts"), BAD_LINES)
    def test_bad_lines(self, tmp_path, bad, parts):
        path = write(tmp_path, line(), b"", bad, line())
        with pytest.raises(RecordError) as error:
            read_records(path)
        message = str(error.value)
        assert message.startswith(f"{path}:3: ")
        for part in parts:
            assert part in message
        assert len(message) < 600  # values are shortened

    @pytest.mark.parametrize(
        "good",
        [
            line([]),  # an image without objects
            line([obj(bbox_2d=TOKENS)]),
            line([obj(bbox_2d=..., poly=[0, 0, 640, 0, 640, 480])]),  # the border belongs to the image
            line([obj(bbox_2d=[-0.0005, 0, 640.0005, 480])]),  # within the tolerance
            line([obj(poly=None)], summary=None, metadata=None),  # null is absent
            line(images=["a/../b.jpg"]),  # stays below the root
            line(images=["/elsewhere/../a.jpg", "b.jpg"]),  # absolute paths are taken as given
            line(metadata={"anything": [1, {"a": None}]}, summary="a cat"),
            line() + b"\r",  # Windows line ends
            b"\xef\xbb\xbf" + line(),  # byte order mark
            line([obj(desc="黑猫 🐈\u2028 chat")]),
        ],
    )
    def test_good_lines(self, tmp_path, good):
        path = write(tmp_path, good, b"  ", b"")
        (record,) = read_records(path)
        raw = json.loads(good.decode("utf-8-sig"))
        assert record.source == f"{path}:1"
        assert record.images == tuple(raw["images"]) and (record.width, record.height) == (640, 480)
        assert (record.summary, record.metadata) == (raw.get("summary"), raw.get("metadata"))
        assert [item.desc for item in record.objects] == [item["desc"] for item in raw["objects"]]
        for item, raw_item in zip(record.objects, raw["objects"], strict=True):
            values = raw_item.get("bbox_2d") or raw_item["poly"]
            if values == TOKENS:
                assert item.bins == (1, 2, 30, 40) and item.bbox_2d is None
            else:
                assert (item.bbox_2d or item.poly) == tuple(values) and item.bins is None

    @pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
    def test_empty_file(self, tmp_path, content):
        path = write(tmp_path, content)
        with pytest.raises(RecordError, match="train.jsonl: the file holds no record"):
            read_records(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(RecordError, match="nothing.jsonl: No such file"):
            read_records(tmp_path / "nothing.jsonl")
        with pytest.raises(RecordError, match="Is a directory"):
            read_records(tmp_path)

    def test_image_root(self, tmp_path):
        path = write(tmp_path, line(images=["x/a.jpg"]))
        assert read_records(str(path))[0].image_path == tmp_path / "x/a.jpg"
        assert read_records(path, image_root="/images")[0].image_path == Path("/images/x/a.jpg")

    def test_records_before_a_fault_are_yielded(self, tmp_path):
        records = iter_records(write(tmp_path, line(), b"5"))
        assert next(records).source.endswith(":1")
        with pytest.raises(RecordError, match=":2: "):
            next(records)

    def test_other_grid(self, tmp_path):
        path = write(tmp_path, line([obj(bbox_2d=TOKENS)]))
        assert read_records(path, grid=CoordinateGrid(41))[0].objects[0].bins == (1, 2, 30, 40)
        with pytest.raises(RecordError, match=r"outside the bins 0\.\.39"):
            read_records(path, grid=CoordinateGrid(40))


descs = (
    st.text(min_size=1, max_size=12)
    .filter(lambda text: text.strip())
    .filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
)


@st.composite
def pixel_objects(draw):
    xs = sorted(draw(st.lists(st.floats(0, 640), min_size=2, max_size=2, unique=True)))
    ys = sorted(draw(st.lists(st.floats(0, 480), min_size=2, max_size=2, unique=True)))
    if draw(st.booleans()):
        return DetectionObject(draw(descs), bbox_2d=(xs[0], ys[0], xs[1], ys[1]))
    return DetectionObject(
        draw(descs), poly=(xs[0], ys[0], xs[1], ys[0], xs[1], ys[1], *(0, 0) * draw(st.integers(0, 3)))
    )


@st.composite
def bin_objects(draw):
    x1, y1 = draw(st.integers(0, 998)), draw(st.integers(0, 998))
    if draw(st.booleans()):
        return DetectionObject(
            draw(descs), bins=(x1, y1, draw(st.integers(x1 + 1, 999)), draw(st.integers(y1 + 1, 999)))
        )
    return DetectionObject(draw(descs), bins=(x1, y1) * draw(st.integers(3, 5)))


class TestWriteRecords:
    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.lists(pixel_objects(), max_size=4) | st.lists(bin_objects(), max_size=4), min_size=1, max_size=3),
        st.none() | descs,
        st.none() | st.dictionaries(st.text("abcé"), st.integers() | st.none() | st.lists(st.booleans())),
    )
    def test_round_trip(self, tmp_path_factory, object_lists, summary, metadata):
        path = tmp_path_factory.mktemp("records") / "new" / "a.jsonl"
        records = [
            DetectionRecord(["x/ä.jpg"], 640, 480, objects, summary, metadata, root=path.parent)
            for objects in object_lists
        ]
        assert write_records(iter(records), path) == len(records)
        assert read_records(path) == records
        assert [entry.name for entry in path.parent.iterdir()] == ["a.jsonl"]

    def test_form(self, tmp_path):
        path = tmp_path / "a.jsonl"
        objects = [DetectionObject("猫", bbox_2d=(1, 2.5, 3, 4)), DetectionObject("b", poly=(0, 0, 1, 0, 1, 1))]
        write_records([DetectionRecord(["a.jpg"], np.int64(640), 480, objects)], path)
        assert path.read_text(encoding="utf-8") == (
            '{"images": ["a.jpg"], "width": 640, "height": 480, "objects": '
            '[{"desc": "猫", "bbox_2d": [1, 2.5, 3, 4]}, {"desc": "b", "poly": [0, 0, 1, 0, 1, 1]}]}\n'
        )
        objects = [DetectionObject("a", bins=(1, 2, 30, 40)), DetectionObject("a", bins=(1, 2, 3, 4, 5, 6))]
        write_records([DetectionRecord(["a.jpg"], 640, 480, objects)], path)
        raw = json.loads(path.read_text())["objects"]
        assert raw[0]["bbox_2d"] == TOKENS and raw[1]["poly"] == [f"<|coord_{k}|>" for k in range(1, 7)]

    @pytest.mark.parametrize("value", [float("nan"), {1}, "\ud800"])
    def test_a_failure_leaves_the_old_file(self, tmp_path, value):
        path = write(tmp_path, b"old")
        records = [
            DetectionRecord(["a.jpg"], 10, 10, []),
            DetectionRecord(["b.jpg"], 10, 10, [], metadata={"x": value}, source="in.jsonl:7"),
        ]
        with pytest.raises(RecordError, match="in.jsonl:7: .*metadata"):
            write_records(records, path)
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_file_may_be_rewritten_from_itself(self, tmp_path):
        path = write(tmp_path, line(), line([]))
        before = read_records(path)
        assert write_records(iter_records(path), path) == 2
        assert read_records(path) == before

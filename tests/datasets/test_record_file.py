# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Records that stay in their file: the same as read at once, in any process, in little memory; and views of them."""

import json
import multiprocessing
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.record_file import RecordFile
from coordexp_trl.datasets.record_views import JoinedRecords, RecordView
from coordexp_trl.records import RecordError, read_records


def line(number: int, count: int = 1, **changes) -> str:
    item = {"desc": f"thing {number}", "bbox_2d": [1.5, 2, 8, 9]}
    record = {"images": [f"{number}.jpg"], "width": 10, "height": 10, "objects": [item] * count}
    return json.dumps(record | changes, ensure_ascii=False)


@pytest.fixture
def write(tmp_path):
    def write(*lines: str, name: str = "a.jsonl", start: bytes = b"", end: str = "\n"):
        path = tmp_path / name
        path.write_bytes(start + end.join(lines).encode())
        return path

    return write


MIXED = [
    line(0),
    line(1, summary="zwei Zellen – größer", metadata={"free": [1, {"x": None}], "id": "seven"}),
    "",
    line(2, count=0, metadata={"free": "text", "id": 7}),
    line(3, objects=[{"desc": "c", "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 3, 4)]}]),
    "   ",
    line(4, objects=[{"desc": "p", "poly": [0, 0, 9, 0, 9.25, 9]}]),
]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n \n"], ids=["plain", "byte-order mark", "blank lines"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_records_are_those_that_reading_at_once_gives(write, start, end):
    path = write(*MIXED, start=start, end=end)
    records, expected = RecordFile(path), read_records(path)
    assert len(records) == len(expected) == 5
    assert list(records) == expected == [records[k] for k in range(5)]
    assert [record.source for record in records] == [record.source for record in expected]
    assert records[-1] == expected[-1] and records[-5] == expected[0]
    assert list(records[1:4]) == expected[1:4] and list(records[::-2]) == expected[::-2]
    for index in (5, -6):
        with pytest.raises(IndexError):
            records[index]


def test_image_root_and_grid_are_passed_on(write, tmp_path):
    path = write(line(0, objects=[{"desc": "c", "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 3, 40)]}]))
    assert RecordFile(path)[0].root == tmp_path
    assert RecordFile(path, "elsewhere")[0] == read_records(path, "elsewhere")[0]
    with pytest.raises(RecordError, match="coord_40"):
        RecordFile(path, grid=CoordinateGrid(40))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(0), line(1, width=0)], r"a\.jsonl:2: width = 0"),
        ([line(0), "", "{"], r"a\.jsonl:3: column 2: invalid JSON"),
        (["", " "], "holds no record"),
    ],
)
def test_mistakes_are_found_at_once_by_line(write, lines, message):
    path = write(*lines)
    with pytest.raises(RecordError, match=message) as error:
        RecordFile(path)
    with pytest.raises(RecordError) as expected:
        read_records(path)
    assert str(error.value) == str(expected.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"none\.jsonl: No such file"):
        RecordFile(tmp_path / "none.jsonl")


def test_records_with_too_many_objects_are_counted_and_left_out(write):
    path = write(*(line(k, count=k) for k in range(5)))
    records = RecordFile(path, max_objects=2)
    assert [len(record.objects) for record in records] == [0, 1, 2] and records.num_dropped == 2
    assert [record.source[-2:] for record in records] == [":1", ":2", ":3"]
    with pytest.raises(RecordError, match="more than max_objects = 0"):
        RecordFile(write(line(0)), max_objects=0)


def test_a_file_that_changed_meanwhile_is_refused(write):
    path = write(line(0), line(1))
    records = RecordFile(path)
    write(line(1), line(0))
    os.utime(path, ns=(1, 1))
    with pytest.raises(RecordError, match="was changed after it had been checked"):
        records[0]


def _read(job):
    records, index = job
    return records[index].objects[0].desc


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_and_threads_share_a_file(write, method):
    records = RecordFile(write(*(line(k) for k in range(200))))
    jobs = [(records, k) for k in (*range(200), *reversed(range(200)))]
    expected = [f"thing {k}" for _, k in jobs]
    assert records[7].objects[0].desc == "thing 7"  # open before the workers begin
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_read, jobs)) == expected
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(_read, jobs, chunksize=50)) == expected


def test_little_of_a_record_stays_in_memory(write):
    path = write(*(line(k, count=20) for k in range(3000)))
    size = path.stat().st_size / 3000
    RecordFile(path)  # what is imported and cached on first use
    tracemalloc.start()
    records = RecordFile(path, show_progress=False)
    for record in records:
        assert record.width == 10
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pickle.dumps(records)) / 3000 < 30
    assert held / 3000 < 60 < size / 10


# Views


def test_a_view_shows_what_its_indices_say(write):
    records = RecordFile(write(*(line(k) for k in range(6))))
    view = RecordView(records, [4, 1, 1])
    assert [record.objects[0].desc for record in view] == ["thing 4", "thing 1", "thing 1"]
    assert view[-1] == records[1] and list(view[1:]) == [records[1]] * 2 and len(view) == 3


@pytest.fixture
def joined(write):
    parts = {
        name: RecordFile(write(*(line(k) for k in range(count)), name=f"{name}.jsonl"))
        for name, count in (("few", 2), ("one", 1), ("many", 4))
    }
    return JoinedRecords(parts, {"one": "Find it."})


def test_joined_records_know_their_dataset_and_its_prompt(joined):
    assert len(joined) == 7
    places = [(record.dataset, record.objects[0].desc[-1], record.prompt) for record in joined]
    assert places == [
        *[("few", str(k), None) for k in range(2)],
        ("one", "0", "Find it."),
        *[("many", str(k), None) for k in range(4)],
    ]
    assert joined[-1].dataset == "many" and [record.dataset for record in joined[1:4]] == ["few", "one", "many"]
    with pytest.raises(IndexError):
        joined[7]


def test_the_first_of_each_in_turn(joined):
    shown = [(record.dataset, record.objects[0].desc[-1]) for record in joined.first_of_each(5)]
    assert shown == [("few", "0"), ("one", "0"), ("many", "0"), ("few", "1"), ("many", "1")]
    assert len(joined.first_of_each(99)) == 7 and joined.first_of_each(0) == []

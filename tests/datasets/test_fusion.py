# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Fusions: what an epoch takes of each source, and what the file may say."""

import json
import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.datasets.fusion import FusionDataset, FusionSource, is_fusion_file, load_fusion, read_fusion
from coordexp_trl.datasets.record_views import RecordView
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError

RECORDS = [
    DetectionRecord((f"{k}.jpg",), 10, 10, tuple([DetectionObject("cat", bbox_2d=(1, 1, 5, 5))] * (k % 4)))
    for k in range(40)
]


def fusion(*shares: tuple[int, float], **options) -> FusionDataset:
    """Sources a, b, … of some records and a ratio each."""
    sources = [FusionSource(name, ratio=ratio, **options) for name, (_, ratio) in zip("abcd", shares, strict=False)]
    return FusionDataset(sources, [RECORDS[:count] for count, _ in shares])


# Samples


@given(
    pool=st.integers(1, 40),
    ratio=st.floats(0.02, 5),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
    evenly=st.booleans(),
)
def test_the_quota_is_exact_and_a_sample_without_replacement_up_to_the_pool(pool, ratio, seed, epoch, evenly):
    source = FusionSource("a", ratio=ratio, sample_without_replacement=evenly)
    drawn = source.sample(pool, epoch, seed)
    counts = Counter(drawn.tolist())
    assert len(drawn) == round(ratio * pool) == source.quota(pool)
    assert drawn.tolist() == sorted(drawn) and set(counts) <= set(range(pool))
    if len(drawn) <= pool:
        assert set(counts.values()) <= {1}
    else:
        assert set(counts) == set(range(pool))  # every record at least once
        if evenly:
            assert max(counts.values()) - min(counts.values()) <= 1
    assert source.sample(pool, epoch, seed).tolist() == drawn.tolist()


def test_a_ratio_of_one_takes_every_record_once():
    data = fusion((5, 1.0), (3, 1.0))
    assert data.epoch_indices(3, seed=7).tolist() == list(range(8)) and data.epoch_length == len(data) == 8


def test_every_record_is_drawn_as_often_as_any_other():
    source = FusionSource("a", ratio=0.3)
    counts = Counter(index for epoch in range(1000) for index in source.sample(10, epoch, 0).tolist())
    assert len(counts) == 10 and min(counts.values()) > 240 and max(counts.values()) < 360
    extra = Counter(index for epoch in range(1000) for index in FusionSource("a", ratio=1.3).sample(10, epoch, 0))
    assert min(extra.values()) > 1240 and max(extra.values()) < 1360
    # Independent extra draws meet the same record again and again, even ones never
    repeated = [max(Counter(FusionSource("a", ratio=2).sample(10, epoch, 0).tolist()).values()) for epoch in range(50)]
    assert max(repeated) > 3
    even = FusionSource("a", ratio=2, sample_without_replacement=True)
    assert Counter(even.sample(10, 4, 0).tolist()) == dict.fromkeys(range(10), 2)


def test_an_epoch_depends_on_seed_and_epoch_alone():
    data = fusion((40, 0.5), (20, 1.5))
    orders = {(seed, epoch): data.epoch_indices(epoch, seed).tolist() for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(map(tuple, orders.values()))) == 6
    assert all(data.epoch_indices(epoch, seed).tolist() == order for (seed, epoch), order in orders.items())


def test_the_sample_of_a_source_depends_on_no_other_source():
    alone = fusion((40, 0.5)).epoch_indices(2, seed=1).tolist()
    assert fusion((40, 0.5), (30, 0.4)).epoch_indices(2, seed=1).tolist()[:20] == alone


def test_two_sources_of_the_same_file_draw_differently():
    first, second = FusionSource("a", ratio=0.5), FusionSource("b", ratio=0.5)
    assert first.sample(40, 0, 0).tolist() != second.sample(40, 0, 0).tolist()


def test_a_source_may_keep_its_samples_whatever_the_seed_of_the_run():
    own = FusionSource("a", ratio=0.5, seed=3)
    assert own.sample(40, 1, 0).tolist() == own.sample(40, 1, 99).tolist() != own.sample(40, 2, 0).tolist()


def test_selected_records_change_the_quotas():
    data = fusion((4, 1.0), (6, 0.5)).select([1, 3, 4, 5, 6, 9])
    assert [len(part) for part in data.parts.values()] == [2, 4] and data.quotas == [2, 2]
    assert [(record.dataset, record.images[0]) for record in data] == [
        ("a", "1.jpg"),
        ("a", "3.jpg"),
        *[("b", f"{k}.jpg") for k in (0, 1, 2, 5)],
    ]


def test_a_quota_of_none_is_refused():
    with pytest.raises(ValueError, match=r"source 'b': ratio = 0\.01 of 10 training records is none\. Raise"):
        fusion((4, 1.0), (10, 0.01))
    with pytest.raises(ValueError, match="source 'a': .* of 0 training records"):
        fusion((2, 1.0), (2, 1.0)).select([2, 3])


def test_records_made_in_python_can_be_fused():
    sources = [FusionSource("a", prompt="Find."), FusionSource("b")]
    data = FusionDataset(sources, [RECORDS[:2], RecordView(RECORDS, [7])])
    assert [(record.dataset, record.prompt) for record in data] == [("a", "Find."), ("a", "Find."), ("b", None)]
    with pytest.raises(ValueError, match="2 sources are named 'a'"):
        FusionDataset([sources[0]] * 2, [RECORDS[:2]] * 2)


# The file


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "fusion.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def write_records(path, count: int):
    rows = [
        {"images": [f"{k}.jpg"], "width": 10, "height": 10, "objects": [{"desc": "c", "bbox_2d": [1, 1, 5, 5]}] * k}
        for k in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_a_file_with_every_key(write, tmp_path):
    path = write(
        """
        datasets:
          - name: coco
            train_jsonl: coco/train.jsonl
            val_jsonl: ../val.jsonl
            ratio: 0.5
            prompt: Find everything.
            max_objects: 60
            seed: 3
            sample_without_replacement: true
            image_root: pictures
          - {name: cells.v2, train_jsonl: /data/cells.jsonl}
        """
    )
    first, second = read_fusion(path)
    assert first == FusionSource(
        "coco",
        train_jsonl=str(tmp_path / "coco/train.jsonl"),
        val_jsonl=str(tmp_path / "../val.jsonl"),
        ratio=0.5,
        prompt="Find everything.",
        max_objects=60,
        seed=3,
        sample_without_replacement=True,
        image_root=str(tmp_path / "pictures"),
    )
    assert second == FusionSource("cells.v2", train_jsonl="/data/cells.jsonl")


def test_later_files_win_key_by_key_and_paths_start_at_their_own_file(write, tmp_path):
    write("datasets:\n- {name: a, train_jsonl: a.jsonl, ratio: 2}\n- {name: b, train_jsonl: b.jsonl}", "sub/one.yaml")
    write("extends: sub/one.yaml\ndatasets:\n- {name: a, ratio: 3, val_jsonl: v.jsonl}", "two.yaml")
    write("datasets:\n- {name: b, prompt: Hello., train_jsonl: null}", "three.yml")
    path = write("extends: [two.yaml, three.yml]\ndatasets:\n- {name: c, train_jsonl: c.jsonl}\n- {name: a, seed: 1}")
    sources = {source.name: source for source in read_fusion(path)}
    assert list(sources) == ["a", "b", "c"]
    assert sources["a"] == FusionSource("a", str(tmp_path / "sub/a.jsonl"), str(tmp_path / "v.jsonl"), ratio=3, seed=1)
    assert sources["b"] == FusionSource("b", prompt="Hello.")
    assert read_fusion(write("extends: two.yaml", "alone.yaml"))[0].ratio == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets:\n- name: a\n  train_json: x", r"fusion\.yaml:3: unknown key 'train_json'; .*'train_jsonl'"),
        ("dataset:\n- name: a", r"fusion\.yaml:1: unknown key 'dataset'; .*'datasets'"),
        ("datasets:\n- name: a\n  train_jsonl: x\n  ratio: two", r"yaml:4: ratio = 'two': must be a number above 0"),
        ("datasets:\n- name: a\n  ratio: 0", "yaml:3: ratio = 0: must be a number above 0; train_jsonl: null"),
        ("datasets:\n- name: a\n  ratio: .nan", "yaml:3: ratio = nan"),
        ("datasets:\n- name: a\n  ratio: true", "yaml:3: ratio = True"),
        ("datasets:\n- name: a b", "yaml:2: name = 'a b': must be letters"),
        ("datasets:\n- name: 7", "yaml:2: name = 7: must be letters"),
        ("datasets:\n- name: a\n  max_objects: 2.5", r"yaml:3: max_objects = 2\.5: must be an integer"),
        ("datasets:\n- name: a\n  seed: -1", "yaml:3: seed = -1: must be an integer from 0"),
        ("datasets:\n- name: a\n  prompt: ' '", "yaml:3: prompt = ' ': must be a text or null"),
        ("datasets:\n- name: a\n  train_jsonl: [x]", "yaml:3: train_jsonl = .*must be a path or null"),
        ("datasets:\n- name: a\n  sample_without_replacement: 1", "yaml:3: .* must be true or false"),
        ("datasets:\n- ratio: 2", "yaml:2: the dataset has no name"),
        ("datasets:\n- name: a", "yaml:2: dataset 'a' has no train_jsonl"),
        ("datasets:\n- name: a\n  ratio: 1\n  ratio: 2", "yaml:4: ratio is given twice"),
        (
            "datasets:\n- {name: a, train_jsonl: x}\n- {name: b, train_jsonl: x}\n- {name: a, train_jsonl: y}",
            "yaml:4: dataset 'a' is listed twice",
        ),
        ("datasets:\n  a: {}", r"yaml:2: datasets must be a list"),
        ("datasets:\n- a", "yaml:2: a dataset must be `key: value` lines"),
        ("datasets: []", "names no dataset"),
        ("- a", "must hold `datasets:`"),
        ("datasets: [", "not valid YAML"),
        ("extends: fusion.yaml", r"extends itself \(fusion\.yaml → fusion\.yaml\)"),
        ("extends: none.yaml", r"none\.yaml: no such file, extended by .*fusion\.yaml"),
        ("extends: 3", "yaml:1: extends = 3: must be the path"),
    ],
)
def test_mistakes_are_named_with_their_line(write, text, message):
    path = write(text)
    with pytest.raises(ValueError, match=message):
        read_fusion(path)


def test_files_that_extend_each_other_are_refused(write):
    write("extends: ../fusion.yaml", "sub/b.yaml")
    with pytest.raises(ValueError, match=r"fusion\.yaml → b\.yaml → fusion\.yaml"):
        read_fusion(write("extends: sub/b.yaml"))


def test_one_file_may_be_reached_twice(write):
    write("datasets:\n- {name: a, train_jsonl: x}", "base.yaml")
    for name in ("one", "two"):
        write("extends: base.yaml", f"{name}.yaml")
    assert len(read_fusion(write("extends: [one.yaml, two.yaml]"))) == 1


@pytest.mark.parametrize(
    ("name", "expected"), [("a.yaml", True), ("a.YML", True), ("a.jsonl", False), ("yaml", False), ("a.json", False)]
)
def test_the_suffix_tells_a_fusion(name, expected):
    assert is_fusion_file(name) is expected


# Opening its files


def test_splits_and_limits(write, tmp_path, caplog):
    for name, count in (("a", 4), ("b", 3), ("v", 6)):
        write_records(tmp_path / f"{name}.jsonl", count)
    path = write(
        """
        datasets:
          - {name: a, train_jsonl: a.jsonl, val_jsonl: v.jsonl, max_objects: 1, prompt: Find., image_root: pictures}
          - {name: b, train_jsonl: b.jsonl}
          - {name: c, train_jsonl: null, val_jsonl: b.jsonl}
        """
    )
    with caplog.at_level(logging.WARNING):
        train = load_fusion(path, image_root="given")
    assert "2 of 4 records have more than max_objects=1 objects" in caplog.text
    assert isinstance(train, FusionDataset) and train.quotas == [2, 3]
    assert [record.dataset for record in train] == ["a"] * 2 + ["b"] * 3
    assert str(train[0].root) == str(tmp_path / "pictures") and str(train[2].root) == "given"
    evaluated = load_fusion(path, "val")
    assert [(record.dataset, record.prompt) for record in evaluated] == [("a", "Find.")] * 6 + [("c", None)] * 3
    assert evaluated[6].root == tmp_path


def test_a_fusion_without_evaluation_records_is_refused(write, tmp_path):
    write_records(tmp_path / "a.jsonl", 2)
    with pytest.raises(ValueError, match=r"fusion\.yaml: no source has val_jsonl\."):
        load_fusion(write("datasets:\n- {name: a, train_jsonl: a.jsonl, val_jsonl: null}"), "val")


def test_a_bad_record_of_a_source_is_named(write, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"images": ["a.jpg"], "width": 1, "height": 1, "objects": [{}]}')
    with pytest.raises(RecordError, match=r"a\.jsonl:1: objects\[0\]"):
        load_fusion(write("datasets:\n- {name: a, train_jsonl: a.jsonl}"))

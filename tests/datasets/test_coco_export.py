# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.coco_export."""

import json
from itertools import pairwise

import numpy as np
import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, CocoFiles, annotation
from faster_coco_eval import COCO
from hypothesis import given
from hypothesis import strategies as st

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets.coco import convert_coco
from coordexp_trl.datasets.coco_export import export_coco
from coordexp_trl.datasets.lvis import convert_lvis
from coordexp_trl.records import DetectionObject, DetectionRecord, read_records, write_records


def record(*objects, image="a.jpg", **metadata):
    return DetectionRecord((image,), WIDTH, HEIGHT, objects, metadata=metadata or None)


def box(desc, *values):
    return DetectionObject(desc, bbox_2d=values or (2, 3, 12, 13))


@pytest.fixture
def export(tmp_path):
    def run(*records, **options):
        write_records(records, tmp_path / "in.jsonl")
        report = export_coco(tmp_path / "in.jsonl", tmp_path / "out.json", **options)
        return json.loads((tmp_path / "out.json").read_text()), report

    return run


def test_what_is_written(export):
    polygon = DetectionObject("dog", poly=(1, 2, 11, 2, 11, 7.5))
    content, report = export(record(box("cat", 1.43, 2, 11.68, 12), polygon), record(image="sub/b.jpg"))
    assert content == {
        "info": {"description": "exported by coordexp-trl"},
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "sub/b.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1.43, 2, 10.25, 10],
                "area": 102.5,
                "segmentation": [],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 2,
                "bbox": [1, 2, 10, 5.5],
                "area": 27.5,
                "segmentation": [[1, 2, 11, 2, 11, 7.5]],
                "iscrowd": 0,
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    assert report.rows() == [("images", 2), ("objects in", 2), ("objects out", 2)]


def test_tokens_are_decoded(export):
    grid = CoordinateGrid()
    bins = DetectionObject("cat", bins=(100, 200, 300, 999))
    polygon = DetectionObject("cat", bins=(100, 200, 300, 200, 300, 999))
    content, _ = export(record(bins, polygon))
    x1, y1, x2, y2 = grid.bins_to_pixels([bins.bins], WIDTH, HEIGHT)[0]
    for annotation_, segmentation in zip(content["annotations"], ([], [[x1, y1, x2, y1, x2, y2]]), strict=True):
        assert annotation_["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-8)
        assert np.array(annotation_["segmentation"]) == pytest.approx(np.array(segmentation), abs=1e-8)
    assert y2 == HEIGHT


# Objects of records as (desc, category id), the ids of categories, what was noted.
CATEGORY_IDS = [
    ([[("dog", None), ("cat", None)]], {"cat": 1, "dog": 2}, None),
    ([[("dog", 18)], [("cat", 17)]], {"cat": 17, "dog": 18}, None),
    ([[("dog", 0)], [("cat", 3)]], {"dog": 0, "cat": 3}, None),
    ([[("dog", 18)], [("cat", None), ("bat", None)]], {"dog": 18, "bat": 19, "cat": 20}, None),
    ([[("dog", 18)], [("dog", None)]], {"dog": 18}, None),
    ([[("pet", 18), ("pet", 17)]], {"pet": 17}, None),  # joined by renaming
    ([[("dog", 1)], [("cat", 1)]], {"cat": 1, "dog": 2}, "category numbered anew"),  # two datasets
    ([[("dog", "1")]], {"dog": 1}, None),
]


@pytest.mark.parametrize(("images", "expected", "note"), CATEGORY_IDS)
def test_category_ids(export, images, expected, note):
    records = []
    for objects in images:
        ids = [category_id for _, category_id in objects]
        metadata = {} if None in ids else {"category_ids": ids}
        records.append(record(*(box(desc) for desc, _ in objects), **metadata))
    content, report = export(*records)
    assert {category["name"]: category["id"] for category in content["categories"]} == expected
    assert len(content["categories"]) == len(expected)
    written = [item["category_id"] for item in content["annotations"]]
    assert written == [expected[desc] for objects in images for desc, _ in objects]
    assert [name.partition(":")[0] for name in report.notes] == ([note] if note else [])


def test_category_ids_that_no_longer_fit_are_not_used(export):
    content, report = export(record(box("cat"), category_ids=[17, 18]))
    assert content["categories"] == [{"id": 1, "name": "cat"}]
    assert report.notes == {"metadata.category_ids of another length than objects, not used": 1}


@pytest.mark.parametrize(
    ("given", "expected", "noted"),
    [
        ([7, 0], [7, 0], False),
        ([None, None], [1, 2], False),
        ([7, None], [1, 2], True),
        ([7, 7], [1, 2], True),
        (["a", "b"], [1, 2], True),
    ],
)
def test_image_ids(export, given, expected, noted):
    records = [record(box("cat"), **({} if image_id is None else {"image_id": image_id})) for image_id in given]
    content, report = export(*records)
    assert [image["id"] for image in content["images"]] == expected
    assert [item["image_id"] for item in content["annotations"]] == expected
    assert bool(report.notes) == noted


def test_file_names(export, tmp_path):
    elsewhere = (tmp_path.parent / "elsewhere.jpg").as_posix()
    records = record(image="img/a.jpg"), record(image=f"{tmp_path}/img/b.jpg"), record(image=elsewhere)

    def names(*records, **options):
        content, report = export(*records, **options)
        return [image["file_name"] for image in content["images"]], report.notes

    note = {"image outside the image root: file_name is absolute": 1}
    assert names(*records) == (["img/a.jpg", "img/b.jpg", elsewhere], note)
    assert names(*records[:2], images=tmp_path / "img") == (["a.jpg", "b.jpg"], {})
    root = tmp_path / "far"
    assert names(*records[:1], image_root=root) == (["img/a.jpg"], {})
    assert names(*records[:1], image_root=root, images=tmp_path) == (["far/img/a.jpg"], {})
    with pytest.raises(ValueError, match=r"in\.jsonl:3: the image .*elsewhere\.jpg lies outside images = "):
        export(*records, images=tmp_path)


def test_a_polygon_without_area_is_counted(export):
    content, report = export(record(DetectionObject("cat", poly=(3, 1, 3, 5, 3, 9)), box("dog")))
    assert [item["bbox"] for item in content["annotations"]] == [[2, 3, 10, 10]]
    assert (report.objects_in, report.objects_out, report.dropped) == (2, 1, {"degenerate box": 1})
    assert [category["name"] for category in content["categories"]] == ["dog"]


def test_bad_records(tmp_path):
    data = tmp_path / "in.jsonl"
    data.write_text('{"images": ["a.jpg"], "width": 40, "height": 30, "objects": [{"desc": "cat"}]}\n')
    with pytest.raises(ValueError, match=r"in\.jsonl:1: objects\[0\]: exactly one of bbox_2d and poly"):
        export_coco(data, tmp_path / "out.json")
    with pytest.raises(ValueError, match="is the file that is read"):
        export_coco(data, data)
    with pytest.raises(ValueError, match="is a folder"):
        export_coco(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_file_loads_as_coco(export, tmp_path):
    export(record(box("cat"), DetectionObject("dog", poly=SQUARE), image_id=0, category_ids=[0, 5]))
    coco = COCO(tmp_path / "out.json")
    assert sorted(coco.anns) == [1, 2] and sorted(coco.cats) == [0, 5] and list(coco.imgs) == [0]
    assert coco.annToMask(coco.anns[2]).sum() == 100


boxes = st.lists(
    st.tuples(st.floats(0, 38), st.floats(0, 28), st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=9
)


@given(boxes, st.integers(0, 4))
def test_there_and_back(tmp_path_factory, values, decimals):
    files = CocoFiles(tmp_path_factory.mktemp("coco"), convert_coco)
    rounded = [(x, y, (WIDTH - x) * w, (HEIGHT - y) * h) for x, y, w, h in values]
    rounded = [[max(round(value, decimals), 10**-decimals) for value in bbox] for bbox in rounded]
    files.add(*(annotation(bbox, category_id=2) for bbox in rounded))
    report = files.convert(check_convention=False)
    export_coco(files.out, files.root / "back.json", images=files.img)
    back = json.loads((files.root / "back.json").read_text())
    assert back["images"] == files.content["images"]
    if not report.notes and not report.dropped:
        assert [item["bbox"] for item in back["annotations"]] == rounded
    assert back["categories"] == ([{"id": 2, "name": "dog"}] if report.objects_out else [])


def test_lvis_there_and_back(tmp_path):
    files = CocoFiles(tmp_path, convert_lvis)
    files.content["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    for category in files.content["categories"]:
        category["frequency"] = "c"
    files.add(annotation())
    files.convert()
    export_coco(files.out, files.json, images=files.img)
    back = json.loads(files.json.read_text())
    assert back["images"] == files.content["images"]
    assert back["categories"] == files.content["categories"][:1]
    before = files.out.read_text()
    convert_lvis(files.json, files.img, files.out)
    assert files.out.read_text() == before


@pytest.mark.shared_data
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("geometry", ["box", "polygon"])
def test_coco_photographs_there_and_back(tmp_path, shared_data, split, geometry):
    folder = shared_data / "coco_permissive"
    source, photographs = folder / f"instances_{split}2017.json", folder / "images" / f"{split}2017"
    convert_coco(source, photographs, tmp_path / "records.jsonl", geometry=geometry)
    export_coco(tmp_path / "records.jsonl", tmp_path / "back.json", images=photographs)
    original, back = (json.loads(path.read_text()) for path in (source, tmp_path / "back.json"))

    def boxes_of(content):
        return sorted(
            (item["image_id"], item["category_id"], item["bbox"])
            for item in content["annotations"]
            if not item["iscrowd"]
        )

    assert boxes_of(back) == boxes_of(original)
    keys = ("id", "file_name", "width", "height")
    assert [[image[key] for key in keys] for image in back["images"]] == [
        [image[key] for key in keys] for image in original["images"]
    ]
    names = {category["id"]: category["name"] for category in original["categories"]}
    assert {category["id"]: category["name"] for category in back["categories"]}.items() <= names.items()
    assert all(b["id"] == a["id"] + 1 for a, b in pairwise(back["annotations"])) and back["annotations"][0]["id"] == 1
    if geometry == "polygon":
        areas = {(item["image_id"], *item["bbox"]): item["area"] for item in original["annotations"]}
        polygons = [item for item in back["annotations"] if item["segmentation"]]
        assert len(polygons) > 400
        errors = [abs(item["area"] / areas[item["image_id"], *item["bbox"]] - 1) for item in polygons]
        assert np.quantile(errors, 0.9) < 0.01  # COCO counts pixels of the mask

    # Integer boxes: half a pixel at each edge
    rounded = [
        DetectionRecord(
            each.images,
            each.width,
            each.height,
            tuple(DetectionObject(item.desc, bbox_2d=np.rint(item.pixel_box(0, 0, None))) for item in each.objects),
            metadata=each.metadata,
        )
        for each in read_records(tmp_path / "records.jsonl")
    ]
    write_records(rounded, tmp_path / "rounded.jsonl")
    export_coco(tmp_path / "rounded.jsonl", tmp_path / "rounded.json", images=photographs)
    for before, after in zip(
        back["annotations"], json.loads((tmp_path / "rounded.json").read_text())["annotations"], strict=True
    ):
        (x, y, w, h), (u, v, s, t) = before["bbox"], after["bbox"]
        assert np.abs(np.subtract((x, y, x + w, y + h), (u, v, u + s, v + t))).max() <= 0.5 + 1e-9

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.coco and what it is made of."""

import json
import math

import numpy as np
import pytest
import shapely
from coco_files import HEIGHT, SQUARE, WIDTH, CocoFiles, annotation
from faster_coco_eval.core import mask
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp_trl.datasets.coco import convert_coco
from coordexp_trl.datasets.segmentation import clip_polygon, polygon_area
from coordexp_trl.images import check_images
from coordexp_trl.records import read_records

COMPRESSED = mask.encode(np.asfortranarray(np.pad(np.ones((6, 4), np.uint8), ((5, 19), (8, 28)))))
RLE = {"size": COMPRESSED["size"], "counts": COMPRESSED["counts"].decode()}  # the box 8, 5, 12, 11
UNCOMPRESSED = {"size": [HEIGHT, WIDTH], "counts": [8 * 30 + 5, 6, 24, 6, 24, 6, 24, 6, 19 + 28 * 30]}
HOLE_OF_NOTHING = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


@pytest.fixture
def coco(tmp_path):
    return CocoFiles(tmp_path, convert_coco)


def test_the_records_hold_what_the_file_says(coco):
    coco.content["categories"].append({"id": 0, "name": " hair\n drier ", "supercategory": "things"})  # 0 is an id
    coco.add_image("b", "b.jpg")  # so is text
    coco.add_image(0, "c.jpg")
    coco.add(
        annotation((1.43, 2, 10.25, 10), image_id=0, category_id=2, id=0),
        annotation((299e-1, 0, 10.1, 30), image_id="b", category_id=0),
        annotation((5, 6, 7, 8), image_id=0, category_id=1),
    )
    report = coco.convert()
    lines = [json.loads(line) for line in coco.out.read_text().splitlines()]
    assert lines == [
        {
            "images": ["img/a.jpg"],
            "width": 40,
            "height": 30,
            "objects": [],
            "metadata": {"image_id": 1, "category_ids": []},
        },
        {
            "images": ["img/b.jpg"],
            "width": 40,
            "height": 30,
            "objects": [{"desc": "hair drier", "bbox_2d": [29.9, 0, 40, 30]}],
            "metadata": {"image_id": "b", "category_ids": [0]},
        },
        {
            "images": ["img/c.jpg"],
            "width": 40,
            "height": 30,
            "objects": [{"desc": "dog", "bbox_2d": [1.43, 2, 11.68, 12]}, {"desc": "cat", "bbox_2d": [5, 6, 12, 14]}],
            "metadata": {"image_id": 0, "category_ids": [2, 1]},
        },
    ]
    assert report.rows() == [
        ("images", 3),
        ("objects in", 3),
        ("objects out", 3),
        ("note: image without annotations", 1),
    ]
    check_images(read_records(coco.out), show_progress=False)


# Annotation, box in the record or None, why it was dropped or what was noted.
BOXES = [
    (annotation((0, 0, 40, 30)), (0, 0, 40, 30), None),
    (annotation((-5, 4, 20, 99)), (0, 4, 15, 30), "box clipped to the image"),
    (annotation((7, 8, 0, 8)), None, "degenerate box"),
    (annotation((7, 8, -3, 8)), None, "inverted box"),
    (annotation((40, 8, 5, 8)), None, "box outside the image"),
    (annotation((math.nan, 8, 5, 8)), None, "coordinate not a finite number"),
    (annotation((7, 8, math.inf, 8)), None, "coordinate not a finite number"),
    (annotation((1e308, 8, 1.7e308, 8)), None, "coordinate not a finite number"),
    (annotation((7, 8, 10**400, 8)), None, "coordinate not a finite number"),
    (annotation(iscrowd=1, segmentation=RLE), None, "crowd"),
    (annotation(iscrowd=True, bbox=None, segmentation=UNCOMPRESSED), None, "crowd"),
    (annotation(ignore=1), None, "ignore"),
    # without a box, that of the segmentation
    (
        annotation(None, segmentation=[SQUARE, [20, 5, 21, 5, 21, 29]]),
        (2, 3, 21, 29),
        "box taken from the segmentation",
    ),
    (annotation([], segmentation=RLE), (8, 5, 12, 11), "box taken from the segmentation"),
    (annotation(None, segmentation=UNCOMPRESSED), (8, 5, 12, 11), "box taken from the segmentation"),
    (annotation(None, segmentation=HOLE_OF_NOTHING), None, "neither box nor segmentation"),
    (annotation(None, segmentation=[]), None, "neither box nor segmentation"),
    (annotation(None), None, "neither box nor segmentation"),
]


@pytest.mark.parametrize(("entry", "expected", "reason"), BOXES)
def test_boxes(coco, entry, expected, reason):
    coco.add(entry)
    boxes, report = coco.geometries()
    assert boxes == ([] if expected is None else [expected])
    assert report.objects_in == 1 and report.objects_out == len(boxes)
    if expected is None:
        assert report.dropped == {reason: 1}
        assert report.notes == {"image whose objects were all left out": 1}
    else:
        assert report.notes == ({reason: 1} if reason else {})


TRIANGLE = [20, 5, 25, 5, 25, 20]
# Segmentation, what `polygon` writes, what `parts` writes (`None` stands for the box).
SEGMENTATIONS = [
    ([SQUARE], [SQUARE], [SQUARE]),
    ([[*SQUARE, 2, 3]], [SQUARE], [SQUARE]),  # the point that closes the polygon is not repeated
    ([SQUARE, TRIANGLE], [None], [SQUARE, TRIANGLE]),
    ([[*SQUARE], [1, 1, 5, 5]], [SQUARE], [SQUARE]),  # two points are no polygon
    ([[1, 1, 5, 5, 9, 9]], [None], [None]),  # no area
    ([[math.nan, 1, 5, 5, 9, 8], SQUARE], [SQUARE], [SQUARE]),
    ([[10**400, 1, 5, 5, 9, 8]], [None], [None]),
    ([[50, 1, 60, 5, 55, 9]], [None], [None]),  # outside
    ([[-10, 5, 10, 5, 10, 15, -10, 15]], [[0, 15, 10, 15, 10, 5, 0, 5]], [[0, 15, 10, 15, 10, 5, 0, 5]]),
    ([], [None], [None]),
    (None, [None], [None]),
    (RLE, [None], [None]),
    (UNCOMPRESSED, [None], [None]),
]


@pytest.mark.parametrize(("segmentation", "polygon", "parts"), SEGMENTATIONS)
def test_geometry(coco, segmentation, polygon, parts):
    box = (2, 3, 12, 13)
    coco.add(
        annotation((2, 3, 10, 10), segmentation=segmentation), annotation((0, 0, 0, 0), segmentation=segmentation)
    )
    for geometry, expected in (("box", [None]), ("polygon", polygon), ("parts", parts)):
        written, report = coco.geometries(geometry=geometry)
        assert [sorted(zip(values[::2], values[1::2], strict=True)) for values in written] == [
            sorted(zip(values[::2], values[1::2], strict=True)) for values in (each or box for each in expected)
        ]
        assert report.objects_out == len(expected) and report.objects_in == len(expected) + 1
        (record,) = read_records(coco.out)
        assert record.metadata["category_ids"] == [1] * len(expected)


def test_notes_on_polygons(coco):
    two = [SQUARE, [1, 1, 5, 5], TRIANGLE]
    coco.add(annotation(segmentation=two), annotation(segmentation=RLE), annotation(segmentation=[]))
    assert coco.convert().notes == {}
    boxes = {"box written for an RLE mask": 1, "box written for an object without polygon": 1}
    unusable = {"polygon without area or not finite, left out": 1}
    notes = coco.convert(geometry="polygon").notes
    assert notes == {**boxes, **unusable, "box written for an object of several polygons": 1}
    assert coco.convert(geometry="parts").notes == {**boxes, **unusable, "annotation split into its polygons": 1}


def test_a_polygon_cut_in_two_by_the_border(coco):
    # A U whose base lies above the image
    u = [5, -5, 35, -5, 35, 10, 25, 10, 25, -1, 15, -1, 15, 10, 5, 10]
    coco.add(annotation((5, -5, 30, 15), segmentation=[u]))
    written, report = coco.geometries(geometry="parts")
    assert sorted(min(values[::2]) for values in written) == [5, 25] and report.objects_in == 2
    assert report.notes == {
        "annotation split into its polygons": 1,
        "box clipped to the image": 1,
        "polygons clipped to the image": 1,
    }
    assert coco.geometries(geometry="polygon")[0] == [(5, 0, 35, 10)]


def test_huge_polygons(coco):
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    inside = np.stack([20 + 10 * np.cos(angle), 15 + 10 * np.sin(angle)], 1).ravel().tolist()
    far = np.array([-1, -1, 1, -1, 1, 1, -1, 1])
    coco.add(*(annotation(segmentation=[points]) for points in (inside, (far * 1e8).tolist(), (far * 1e99).tolist())))
    written, report = coco.geometries(geometry="polygon")
    assert written[0] == tuple(inside)
    assert {*zip(written[1][::2], written[1][1::2], strict=True)} == {(0, 0), (40, 0), (40, 30), (0, 30)}
    assert written[2] == (2, 3, 12, 13) and report.notes["polygon without area or not finite, left out"] == 1


def area_inside(points):
    """Area of a simple polygon within the image, by cutting it at one border after the other (Sutherland-Hodgman)."""
    for axis, limit, sign in ((0, 0, 1), (0, WIDTH, -1), (1, 0, 1), (1, HEIGHT, -1)):
        kept = []
        for start, end in zip(points[-1:] + points[:-1], points, strict=True):
            before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if (before < 0) != (after < 0):
                t = before / (before - after)
                kept.append(tuple(s + t * (e - s) for s, e in zip(start, end, strict=True)))
            if after >= 0:
                kept.append(end)
        points = kept
    return polygon_area([value for point in points for value in point]) if points else 0


@given(st.lists(st.tuples(st.floats(-60, 100), st.floats(-60, 100)), min_size=3, max_size=12))
def test_clipped_polygons_lie_in_the_image_and_have_its_area(points):
    flat = [value for point in points for value in point]
    parts = clip_polygon(flat, WIDTH, HEIGHT)
    for part in parts:
        assert len(part) >= 6 and min(part) >= 0 and max(part[::2]) <= WIDTH and max(part[1::2]) <= HEIGHT
    if shapely.Polygon(points).is_valid:
        assert sum(map(polygon_area, parts)) == pytest.approx(area_inside(points), abs=1e-4)


# What replaces or extends which part of the file, and what the message must hold.
BAD = [
    ({"annotations": [annotation(id=7, image_id=9)]}, r"annotations\[0\] \(id 7\)\.image_id = 9: no image"),
    ({"annotations": [annotation(image_id="1")]}, r"annotations\[0\]\.image_id = '1': no image"),
    ({"annotations": [annotation(image_id=[1])]}, r"image_id = \[1\]: no image"),
    ({"annotations": [annotation(category_id=3)]}, r"category_id = 3: no category .* 2 categories, ids 1 to 2"),
    ({"annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}, r"category_id = None.*instances file"),
    ({"annotations": [{"id": 1, "image_id": 1, "segments_info": []}]}, "panoptic"),
    ({"annotations": [7]}, r"annotations\[0\] = 7: must be a JSON object"),
    ({"annotations": [annotation((1, 2, 3))]}, r"annotations\[0\]\.bbox = \[1, 2, 3\]: must be four numbers"),
    ({"annotations": [annotation((1, 2, 3, "4"))]}, r"bbox = .*'4'\]: must be four numbers"),
    ({"annotations": [annotation((1, 2, 3, True))]}, r"bbox = .*True\]: must be four numbers"),
    ({"annotations": [annotation(bbox=None, segmentation=SQUARE)]}, r"segmentation\[0\] = 2: must be a polygon"),
    ({"annotations": [annotation(bbox=None, segmentation=[SQUARE[:7]])]}, r"segmentation\[0\] = .*even number"),
    ({"annotations": [annotation(bbox=None, segmentation="mask")]}, r"segmentation.*must be a polygon"),
    ({"annotations": [annotation(bbox=None, segmentation={**RLE, "size": [40, 30]})]}, r"size = \[30, 40\]"),
    ({"annotations": [annotation(bbox=None, segmentation={"counts": RLE["counts"]})]}, r"RLE mask with size"),
    (
        {"annotations": [annotation(bbox=None, segmentation={**RLE, "counts": "mmmo" * 99})]},
        r"counts = 'mmmo.*: not an RLE",
    ),
    ({"annotations": [annotation(bbox=None, segmentation={**RLE, "counts": [-1, 9]})]}, r"not an RLE mask"),
    ({"annotations": [annotation(bbox=None, segmentation={**RLE, "counts": ["a"]})]}, r"not an RLE mask"),
    ({"annotations": None}, "annotations is missing"),
    ({"categories": {}}, r"categories = \{\}: must be a list"),
    ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, r"categories\[1\]\.id = 1: another category"),
    ({"categories": [{"id": 1, "name": " "}]}, r"categories\[0\]\.name = ' ': must be a name"),
    ({"categories": [{"id": "1", "name": "a"}]}, r"categories\[0\]\.id = '1': must be an integer"),
    ({"images": []}, "images is empty"),
    ({"images": ["a.jpg"]}, r"images\[0\] = 'a.jpg': must be a JSON object"),
    ({"images": [{"file_name": "a.jpg", "width": 40, "height": 30}]}, r"images\[0\]\.id = None: must be an integer"),
]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}
BAD += [
    ({"images": [IMAGE, {**IMAGE, "file_name": "b.jpg"}]}, r"images\[1\]\.id = 1: images\[0\] has this id already"),
    ({"images": [{**IMAGE, "file_name": "../img/../../a.jpg"}]}, r"images\[0\] \(id 1\)\.file_name.*leaves the image"),
    ({"images": [{**IMAGE, "file_name": "/etc/hostname"}]}, r"file_name = '/etc/hostname': leaves the image folder"),
    ({"images": [{**IMAGE, "file_name": 5}]}, r"file_name = 5: must be text"),
    ({"images": [{"id": 1, "width": WIDTH, "height": HEIGHT}]}, "neither file_name nor coco_url"),
    (
        {"images": [{**IMAGE, "file_name": "b.jpg"}]},
        r"1 of 1 images .*\n.*no such file in .*img': b.jpg.\n.*leave",
    ),
    ({"images": [{**IMAGE, "width": 41}]}, r"\(id 1\): .*a\.jpg: the image is 40 x 30 pixels, but the .* 41 x 30"),
    ({"images": [{**IMAGE, "width": 30, "height": 40}]}, "Width and height look swapped"),
    ({"images": [{**IMAGE, "width": "40"}]}, r"width = '40': must be a positive integer"),
    ({"images": [{**IMAGE, "width": 0}]}, r"width = 0: must be a positive integer"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_files_are_named_and_nothing_is_written(coco, changes, message):
    coco.content |= changes
    with pytest.raises(ValueError, match=message) as caught:
        coco.convert()
    assert "coco.json" in str(caught.value)
    assert sorted(path.name for path in coco.root.iterdir()) == ["coco.json", "img"]


@pytest.mark.parametrize("geometry", ["polygon", "parts"])
def test_bad_segmentation_counts_where_it_is_used(coco, geometry):
    coco.add(annotation(segmentation=[SQUARE[:7]]))
    coco.convert()  # the box is enough
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 1\)\.segmentation\[0\]"):
        coco.convert(geometry=geometry)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"images": ["\xff"]}', "cannot be read.*utf-8"),
        (b'{"images": [', r"coco\.json:1: column 13: invalid JSON"),
        (
            b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            r"list of results \(predictions\)",
        ),
        (b"[]", "holds a list, must be one object"),
        (b"7", "images is missing. Give a file of COCO instances"),
    ],
)
def test_files_of_another_form(coco, data, message):
    coco.json.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        convert_coco(coco.json, coco.img, coco.out)
    assert not coco.out.exists()


def test_bad_arguments(coco):
    with pytest.raises(ValueError, match=r"geometry = 'mask': must be one of box, polygon, parts"):
        coco.convert(geometry="mask")
    with pytest.raises(ValueError, match=r"images = .*nowhere.*no such folder"):
        coco.convert(images="nowhere")
    with pytest.raises(ValueError, match="needs the folder of the images"):
        coco.convert(images=None, skip_missing_images=True)
    with pytest.raises(ValueError, match="annotations = .*missing.json.*cannot be read"):
        convert_coco(coco.root / "missing.json", coco.img, coco.out)
    with pytest.raises(ValueError, match="out = .*is a folder"):
        convert_coco(coco.json, coco.img, coco.root)


def test_repeated_annotations(coco):
    same = annotation((2, 3, 4, 5), id=5)
    coco.add(same, annotation((9, 9, 4, 5), id=5), same, annotation((9, 9, 4, 5), id=5))
    boxes, report = coco.geometries()
    assert boxes == [(2, 3, 6, 8), (9, 9, 13, 14)]
    assert report.objects_in == 4 and report.dropped == {"repeated annotation": 2}
    assert report.notes == {"annotation id used twice": 1}


def test_images_without_objects(coco):
    coco.add_image(2, "b.jpg")
    coco.add_image(3, "c.jpg")
    coco.add(annotation(image_id=2, iscrowd=1), annotation(image_id=3))
    notes = {"image without annotations": 1, "image whose objects were all left out": 1}
    records, report = coco.records()
    assert [len(record.objects) for record in records] == [0, 0, 1] and report.notes == notes
    records, report = coco.records(skip_unannotated=True)
    assert [record.images for record in records] == [("img/c.jpg",)] and report.images == 1
    assert report.notes == {**notes, "image without objects, left out": 2}


def test_missing_images_can_be_left_out(coco):
    coco.add_image(2, "b.jpg")
    coco.add(annotation(image_id=2), annotation(image_id=2, iscrowd=1), annotation())
    (coco.img / "b.jpg").unlink()
    records, report = coco.records(skip_missing_images=True)
    assert [record.metadata["image_id"] for record in records] == [1]
    assert (report.objects_in, report.objects_out) == (3, 1)
    assert report.dropped == {"image missing": 2} and report.notes == {"image missing": 1}
    coco.image("b.jpg", (30, 40))  # another size is no missing file
    with pytest.raises(ValueError, match="look swapped"):
        coco.convert(skip_missing_images=True)
    for path in coco.img.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the 2 images is there.*a\.jpg"):
        coco.convert(skip_missing_images=True)


def test_all_bad_images_are_counted_and_the_first_named(coco):
    for number in range(2, 9):
        coco.add_image(number, f"{number}.jpg")
        (coco.img / f"{number}.jpg").unlink()
    (coco.img / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="8 of 8 images cannot be used") as caught:
        coco.convert()
    message = str(caught.value)
    assert "a.jpg: not a readable image" in message and "5.jpg" in message and "6.jpg" not in message
    assert "... and 3 more" in message


def test_conversion_without_images(coco):
    coco.content["images"] = [
        {"id": 1, "file_name": "none/a.jpg", "width": 50, "height": 60},
        {"id": 2, "coco_url": "http://images.cocodataset.org/val2017/000000000285.jpg", "width": 586, "height": 640},
    ]
    coco.add(annotation((0, 0, 50, 60)))
    records, report = coco.records(images=None)
    assert [record.images for record in records] == [("none/a.jpg",), ("val2017/000000000285.jpg",)]
    assert [(record.width, record.height) for record in records] == [(50, 60), (586, 640)]
    coco.content["images"][0]["file_name"] = "../a.jpg"
    with pytest.raises(ValueError, match=r"images\[0\].*leaves the image folder"):
        coco.convert(images=None)
    coco.content["images"][0] = {"id": 1, "file_name": "a.jpg", "height": 60}
    with pytest.raises(ValueError, match="width = None: must be a positive integer"):
        coco.convert(images=None)


def test_size_missing_in_the_file_is_taken_from_the_image(coco):
    coco.content["images"] = [{"id": 1, "file_name": "a.jpg"}]
    (record,), _ = coco.records()
    assert (record.width, record.height) == (WIDTH, HEIGHT)


def test_rotated_photos(coco):
    exif = Image.Exif()
    exif[0x0112] = 6
    coco.image("a.jpg", exif=exif)
    coco.convert()  # stored size: the boxes refer to stored pixels
    coco.content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    with pytest.raises(ValueError, match="EXIF orientation of the file explains it.*exif_transpose"):
        coco.convert()


@pytest.mark.parametrize(("mode", "name"), [("L", "g.jpg"), ("CMYK", "k.jpg"), ("P", "p.png"), ("RGBA", "t.png")])
def test_images_of_other_modes(coco, mode, name):
    coco.image(name, mode=mode)
    coco.content["images"][0]["file_name"] = name
    coco.add(annotation())
    records, _ = coco.records()
    check_images(records, show_progress=False)


def test_rename(coco):
    (coco.root / "rename.yaml").write_text("cat: black cat\n")
    coco.add(annotation(), annotation(category_id=2))
    (record,), _ = coco.records(rename=coco.root / "rename.yaml")
    assert [item.desc for item in record.objects] == ["black cat", "dog"]
    assert record.metadata["category_ids"] == [1, 2]
    (coco.root / "rename.yaml").write_text("cow: black cow\n")
    with pytest.raises(ValueError, match="'cow' is no class of the dataset.*'cat', 'dog'"):
        coco.convert(rename=coco.root / "rename.yaml")


def some_boxes(count=60):
    """Boxes xyxy in units of the image, of many sizes, all over it."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), 1)
    return np.concatenate([corners[:, 0], corners[:, 1]], 1)


def xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


SIZE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
# Values of bbox, and what the message must hold; `None` is right.
CONVENTIONS = [
    (xywh(some_boxes() * SIZE), None),
    (xywh(np.concatenate([some_boxes() * SIZE / 4] * 2)), None),  # all in the upper left
    (some_boxes() * SIZE, r"look like x1, y1, x2, y2"),
    (xywh(some_boxes()), "look normalised"),
    ((some_boxes()[:, :2] + some_boxes()[:, 2:]).repeat(2, 1) / 2, "look normalised"),  # centres, not corners
    (xywh(some_boxes() * 1000), "1000-scaled"),
    (xywh(some_boxes() * SIZE) * 40, "leave their image"),
]


@pytest.mark.parametrize(("boxes", "message"), CONVENTIONS)
def test_other_box_conventions_are_recognised(coco, boxes, message):
    coco.add(*(annotation(bbox.tolist()) for bbox in boxes))
    if message is None:
        assert coco.convert().objects_out == len(boxes)
        return
    with pytest.raises(ValueError, match=r"coco\.json: bbox of \d+ annotations: .*" + message):
        coco.convert()
    assert not coco.out.exists()
    report = coco.convert(check_convention=False)
    assert report.objects_in == len(boxes)


def test_swapped_sizes_are_recognised_without_images(coco):
    coco.add(*(annotation(bbox.tolist()) for bbox in xywh(some_boxes() * [400, 100, 400, 100])))
    coco.content["images"][0] |= {"width": 100, "height": 400}
    with pytest.raises(ValueError, match="width and height look swapped"):
        coco.convert(images=None)


def test_failure_keeps_an_older_output(coco):
    coco.out.write_text("old")
    coco.add(annotation(segmentation=["bad"]))
    with pytest.raises(ValueError):
        coco.convert(geometry="polygon")
    assert [path.name for path in coco.root.iterdir() if path.name.startswith(("out", "."))] == ["out.jsonl"]
    assert coco.out.read_text() == "old"


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "split", "images", "objects", "crowd", "parts", "empty"),
    [
        ("instances", "train", 58, 617, 8, 686, 0),
        ("instances", "val", 63, 554, 7, 619, 2),
        ("boxes_from_yolo", "train", 18, 106, 0, 106, 0),
        ("boxes_from_yolo", "val", 19, 111, 0, 111, 0),
    ],
)
def test_coco_photographs(tmp_path, shared_data, name, split, images, objects, crowd, parts, empty):
    folder = shared_data / "coco_permissive"
    source, photographs = folder / f"{name}_{split}2017.json", folder / "images" / f"{split}2017"
    for geometry, expected in (("box", objects), ("polygon", objects), ("parts", parts)):
        report = convert_coco(source, photographs, tmp_path / "out.jsonl", geometry=geometry)
        assert (report.images, report.objects_out, report.dropped.total()) == (images, expected, crowd)
        records = read_records(tmp_path / "out.jsonl")
        assert sum(not record.objects for record in records) == empty
        has_polygons = geometry != "box" and name == "instances"
        assert has_polygons == any(item.is_polygon for record in records for item in record.objects)
    check_images(records, show_progress=False)

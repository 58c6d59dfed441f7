# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.yolo and yolo_layout."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.yolo import convert_yolo
from coordexp_trl.images import check_images
from coordexp_trl.records import read_records

WIDTH, HEIGHT = 40, 20
SEGMENT = "1 0.1 0.1 0.5 0.1 0.5 0.6"


class Yolo:
    """A dataset in Ultralytics' layout with one image, `train/a.jpg`, and its conversion to `out.jsonl`."""

    def __init__(self, root):
        self.root, self.out = root, root / "out.jsonl"
        self.yaml("train: images/train\nnames: [cat, dog]")
        self.image("a.jpg")

    def yaml(self, text):
        (self.root / "data.yaml").write_text(text)

    def image(self, name, split="train", **options):
        path = self.root / "images" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path, **options)
        return path

    def label(self, text, name="a.txt", split="train"):
        path = self.root / "labels" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def convert(self, **options):
        options = {"split": "train"} | options if "images" not in options else options
        return convert_yolo(options.pop("names", self.root / "data.yaml"), self.out, **options)

    def records(self, **options):
        report = self.convert(**options)
        return read_records(self.out), report


@pytest.fixture
def yolo(tmp_path):
    return Yolo(tmp_path)


# Text of the label file, options, descriptions and geometry, what the report says.
LINES = [
    ("0 0.5 0.5 0.5 0.4", {}, [("cat", (10, 6, 30, 14))], {}),
    ("1 0.5 0.5 1 1\n\n0 0.25 0.5 0.5 1\n", {}, [("dog", (0, 0, 40, 20)), ("cat", (0, 0, 20, 20))], {}),
    ("0.0 5e-1 0.5 0.5 0.4", {}, [("cat", (10, 6, 30, 14))], {}),
    # segmentation
    (SEGMENT, {}, [("dog", (4, 2, 20, 12))], {"notes": {"polygon as its box": 1}}),
    (SEGMENT, {"geometry": "polygon"}, [("dog", (4, 2, 20, 2, 20, 12))], {}),
    (SEGMENT + " 0.1 0.1", {"geometry": "polygon"}, [("dog", (4, 2, 20, 2, 20, 12))], {}),  # closed explicitly
    ("0 0.5 0.5 0.5 0.4", {"geometry": "polygon"}, [("cat", (10, 6, 30, 14))], {}),
    ("0 0.1 0.1 0.2 0.2 0.3 0.3", {"geometry": "polygon"}, [], {"dropped": {"degenerate polygon": 1}}),
    (
        "0 0.5 0.5 1.5 0.5 0.5 1",
        {"geometry": "polygon"},
        [("cat", (20, 10, 20, 20, 40, 15, 40, 10))],
        {"notes": {"polygon clipped to the image": 1}},
    ),
    (
        "0 0.1 0.5 0.3 1.4 0.5 0.5 0.6 1.6 0 1.6",  # two tips in the image
        {"geometry": "polygon"},
        [("cat", (0, 10, 24, 20))],
        {
            "notes": {
                "polygon clipped to the image": 1,
                "box written for a polygon that its image cuts into pieces": 1,
            }
        },
    ),
    # a triangle beyond the corner, though its box is not
    ("0 0.9 1.5 1.5 0.9 1.5 1.5", {"geometry": "polygon"}, [], {"dropped": {"polygon outside the image": 1}}),
    # clipped, but rounding in the sixth decimal is not called that
    ("0 0 0.5 0.5 1", {}, [("cat", (0, 0, 10, 20))], {"notes": {"box clipped to the image": 1}}),
    ("0 0.500001 0.5 1 1", {}, [("cat", (0, 0, 40, 20))], {}),
    # left out
    ("0 0.5 0.5 0 0.4", {}, [], {"dropped": {"degenerate box": 1}}),
    ("0 0.5 0.5 -0.1 0.4", {}, [], {"dropped": {"inverted box": 1}}),
    ("0 1.5 0.5 0.1 0.4", {}, [], {"dropped": {"box outside the image": 1}}),
    ("0 nan 0.5 0.1 0.4", {}, [], {"dropped": {"coordinate not a finite number": 1}}),
    ("0 1e999 0.5 0.1 0.4", {}, [], {"dropped": {"coordinate not a finite number": 1}}),
    ("0 .5 .5 .5 .4\n0 0.5 0.5 0.5 0.4", {}, [("cat", (10, 6, 30, 14))], {"dropped": {"equal line": 1}}),
    ("", {}, [], {}),
]


@pytest.mark.parametrize("text, options, expected, counts", LINES)
def test_lines(yolo, text, options, expected, counts):
    yolo.label(text)
    (record,), report = yolo.records(**options)
    assert [(item.desc, item.bbox_2d or item.poly) for item in record.objects] == expected
    assert (record.width, record.height, record.images) == (WIDTH, HEIGHT, ("images/train/a.jpg",))
    num_in = len([line for line in text.splitlines() if line.strip()])
    assert report == ConversionReport(1, num_in, len(expected), counts.get("dropped", {}), counts.get("notes", {}))


# Text of the label file, what the error says after file and line.
WRONG_LINES = [
    ("2 0.5 0.5 0.5 0.4", "a.txt:1: class 2 is none of the 2 classes"),
    ("-1 0.5 0.5 0.5 0.4", "a.txt:1: class -1"),
    ("0.5 0.5 0.5 0.5 0.4", "a.txt:1: class 0.5"),
    ("nan 0.5 0.5 0.5 0.4", "a.txt:1: class nan"),
    ("0 0.5 0.5 0.5 0.5\ncat 0.5 0.5 0.5 0.4", "a.txt:2: .*numbers only"),
    ("0 0.5 0.5 0.5", "a.txt:1: has 3 coordinates"),
    ("0 0.5 0.5 0.5 0.4 0.9", "a.txt:1: has 5 coordinates.*confidence"),
    ("0", "a.txt:1: has 0 coordinates"),
    (b"0 0.5 0.5 0.5 0.4 \xff", "a.txt: cannot be read.*utf-8"),
]


@pytest.mark.parametrize("text, message", WRONG_LINES)
def test_malformed_lines_are_named_and_nothing_is_written(yolo, text, message):
    yolo.label(text)
    with pytest.raises(ValueError, match=message):
        yolo.convert()
    assert [path.name for path in yolo.root.glob("*out*")] == []


@given(st.tuples(*[st.integers(0, WIDTH * 8)] * 2), st.tuples(*[st.integers(0, HEIGHT * 8)] * 2))
def test_boxes_survive_the_way_through_six_decimals(tmp_path_factory, xs, ys):
    yolo = Yolo(tmp_path_factory.mktemp("yolo"))
    (x1, x2), (y1, y2) = ([value / 8 for value in sorted(pair)] for pair in (xs, ys))
    values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    yolo.label("0 " + " ".join(f"{value:.6f}" for value in values))
    (record,), report = yolo.records()
    if x1 == x2 or y1 == y2:
        assert report.dropped == {"degenerate box": 1}
    else:
        assert record.objects[0].bbox_2d == pytest.approx((x1, y1, x2, y2), abs=1e-4)


# data.yaml
YAMLS = [
    "path: .\ntrain: images/train\nnames: {0: cat, 1: dog}",
    "train: [images/train]\nnc: 2\nnames: [cat, dog]",
    "train: ../images/train\nnames: [cat, dog]",  # as Roboflow writes it
    "train: train.txt\nnames:\n  - cat\n  - dog",
    "train: train.txt\nnames: {1: dog, 0: cat, 7: 12}",
]


@pytest.mark.parametrize("text", YAMLS)
def test_layouts(yolo, text):
    yolo.yaml(text)
    (yolo.root / "train.txt").write_text("./images/train/a.jpg\n\n")
    yolo.label("1 0.5 0.5 0.5 0.4")
    (record,), _ = yolo.records()
    assert [item.desc for item in record.objects] == ["dog"]


# data.yaml or text file of names, what the error says
WRONG_NAMES = [
    ("data.yaml", "train: images/train", "names = None: must be a list"),
    ("data.yaml", "names: []", "must be a list"),
    ("data.yaml", "names: [cat, yes]", r"names\[1\] = True.*Quote it"),
    ("data.yaml", "names: {a: cat}", r"names\['a'\]"),
    ("data.yaml", "nc: 3\nnames: [cat, dog]", "nc = 3, but names holds 2"),
    ("data.yaml", "names: [cat, dog", "cannot be read"),
    ("data.yaml", "names: [cat]\nkpt_shape: 17", "kpt_shape = 17"),
    ("data.yaml", "names: [cat]\ntrain: 3", "train = 3"),
    ("data.yaml", "names: [cat]\ntrain: nowhere", "train = 'nowhere': no such folder or list; looked for"),
    ("names.txt", "cat\n\ndog", r"names\[1\] = ''"),
]


@pytest.mark.parametrize("name, text, message", WRONG_NAMES)
def test_wrong_names(yolo, name, text, message):
    (yolo.root / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        yolo.convert(names=yolo.root / name)


def test_folders_lists_and_names_as_text(yolo):
    yolo.image("b.PNG", split="train/deep")
    (yolo.root / "names.txt").write_text("cat\ndog\n")
    folder = yolo.root / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("0 0.5 0.5 0.5 0.4")
    (folder / "deep" / "b.txt").write_text("1 0.5 0.5 0.5 0.4")
    options = {"names": yolo.root / "names.txt", "images": yolo.root / "images" / "train", "labels": folder}
    records, _ = yolo.records(**options)
    assert [record.images[0] for record in records] == ["images/train/a.jpg", "images/train/deep/b.PNG"]
    assert [record.objects[0].desc for record in records] == ["cat", "dog"]
    (yolo.root / "list.txt").write_text("images/train/deep/b.PNG\nimages/train/a.jpg")
    (folder / "b.txt").write_text("0 0.5 0.5 1 1")  # found by its name, because the list starts elsewhere
    records, _ = yolo.records(**options | {"images": yolo.root / "list.txt"})
    assert [record.objects[0].bbox_2d for record in records] == [(0, 0, 40, 20), (10, 6, 30, 14)]


def test_labels_may_lie_beside_the_images(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.b.jpg")
    (tmp_path / "a.b.txt").write_text("0 0.5 0.5 0.5 0.4")
    (tmp_path / "classes.txt").write_text("cat\ndog")
    (tmp_path / "README.txt").write_text("Hello")
    report = convert_yolo(tmp_path / "classes.txt", tmp_path / "out.jsonl", images=tmp_path)
    assert (report.images, report.objects_out) == (1, 1)


def test_images_without_labels_and_labels_without_images(yolo):
    yolo.label("0 0.5 0.5 0.5 0.4")
    yolo.image("b.jpg")
    records, report = yolo.records()
    assert [len(record.objects) for record in records] == [1, 0]
    assert report.notes == {"image without label file": 1}
    records, report = yolo.records(skip_unlabelled=True)
    assert len(records) == 1 and report.notes == {"image without label file": 1}
    yolo.label("0 0.5 0.5 0.5 0.4\n1 0.5 0.5 0.5 0.4", "c.txt")
    with pytest.raises(ValueError, match=r"c\.txt: no image for this label file \(1 such"):
        yolo.convert()
    report = yolo.convert(skip_missing_images=True)
    assert (report.objects_in, report.objects_out, report.dropped) == (3, 1, {"image missing": 2})


def test_missing_images_of_a_list(yolo):
    yolo.label("0 0.5 0.5 0.5 0.4")
    yolo.label("0 0.5 0.5 0.5 0.4", "b.txt")
    listed = yolo.root / "list.txt"
    listed.write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    with pytest.raises(ValueError, match=r"b\.jpg: no such image, needed by .*list\.txt:2"):
        yolo.convert(images=listed)
    report = yolo.convert(images=listed, skip_missing_images=True)
    assert report == ConversionReport(1, 2, 1, {"image missing": 1}, {"image missing": 1})


def test_lists_do_not_leave_their_folder(yolo):
    (yolo.root / "list.txt").write_text("images/train/a.jpg\nimages/../../b.jpg")
    with pytest.raises(ValueError, match=r"list\.txt:2: 'images/../../b\.jpg' leaves"):
        yolo.convert(images=yolo.root / "list.txt")


def test_no_label_at_all_is_a_wrong_folder(yolo):
    with pytest.raises(ValueError, match=r"labels/train/a\.txt: no such label file, nor one for any other image"):
        yolo.convert()


def test_options_that_do_not_fit(yolo):
    yolo.label("0 0.5 0.5 0.5 0.4")
    images = yolo.root / "images" / "train"
    for options, message in [
        ({"images": images, "split": "train"}, "exactly one"),
        ({"images": images, "labels": yolo.root / "no"}, "labels = .*no such folder"),
        ({"images": yolo.root / "no"}, "images = .*no such folder"),
        ({"images": yolo.root / "labels"}, "holds no image"),
        ({"geometry": "mask"}, "geometry = 'mask'"),
        ({"names": yolo.root / "no.yaml"}, "names = .*cannot be read"),
    ]:
        with pytest.raises(ValueError, match=message):
            yolo.convert(**options)
    with pytest.raises(ValueError, match="out = .*is a folder"):
        convert_yolo(yolo.root / "data.yaml", yolo.root, split="train")


def test_photographs_turned_by_exif_are_refused(yolo):
    exif = Image.Exif()
    exif[0x0112] = 6
    yolo.image("a.jpg", exif=exif)
    yolo.label("0 0.5 0.5 0.5 0.4")
    with pytest.raises(ValueError, match=r"a\.jpg is turned by its EXIF orientation.*exif_transpose"):
        yolo.convert()
    exif[0x0112] = 1
    yolo.image("a.jpg", exif=exif)
    assert yolo.convert().objects_out == 1


def test_keypoints_are_left_out(yolo):
    yolo.yaml("train: images/train\nnames: [cat, dog]\nkpt_shape: [2, 3]")
    yolo.label("1 0.5 0.5 0.5 0.4 0.1 0.1 2 0.3 0.3 1")
    (record,), report = yolo.records()
    assert record.objects[0].bbox_2d == (10, 6, 30, 14) and report.notes == {"keypoints left out": 1}
    yolo.label("1 0.5 0.5 0.5 0.4 0.1 0.1 2")
    with pytest.raises(ValueError, match="a.txt:1: has 7 coordinates, kpt_shape needs 10"):
        yolo.convert()


def test_pixels_given_as_normalised_are_noticed(yolo):
    yolo.label("\n".join(f"0 {20 + i % 5} 10 {8 + i} 6" for i in range(12)))
    with pytest.raises(ValueError, match="leave their image.*YOLO line.*--no-convention-check"):
        yolo.convert()
    assert not yolo.out.exists()
    report = yolo.convert(check_convention=False)
    assert (report.objects_in, report.dropped.total()) == (12, 12)


def test_rename(yolo):
    yolo.label("1 0.5 0.5 0.5 0.4")
    (yolo.root / "names.json").write_text(json.dumps({"dog": "black dog", "cat": "tom cat"}))  # no cat in this split
    (record,), _ = yolo.records(rename=yolo.root / "names.json")
    assert record.objects[0].desc == "black dog"
    (yolo.root / "names.json").write_text(json.dumps({"dgo": "black dog"}))
    with pytest.raises(ValueError, match="'dgo' is no class"):
        yolo.convert(rename=yolo.root / "names.json")


def test_command(yolo, capsys):
    yolo.label("0 0.5 0.5 0.5 0.4\n" + SEGMENT)
    command = ["data", "convert", "yolo", "--names", str(yolo.root / "data.yaml"), "--out", str(yolo.out)]
    assert cli.main([*command, "--split", "train", "--geometry", "polygon"]) == 0
    assert "objects in" in capsys.readouterr().out
    (record,) = read_records(yolo.out)
    assert [item.is_polygon for item in record.objects] == [False, True]
    assert cli.main(command) == 2
    assert "split, images: give exactly one of them" in capsys.readouterr().err


@pytest.mark.shared_data
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_photographs(tmp_path, shared_data, split):
    folder = shared_data / "coco_permissive"
    boxes_of, categories = {}, {}
    for kind in ("instances", "boxes_from_yolo"):
        content = json.loads((folder / f"{kind}_{split}.json").read_text())
        categories |= {category["id"]: category["name"] for category in content["categories"]}
        for item in content["annotations"]:
            x, y, w, h = item["bbox"]
            if not item["iscrowd"]:
                boxes_of.setdefault(item["image_id"], []).append((item["category_id"], x, y, x + w, y + h))
    (tmp_path / "names.txt").write_text("\n".join(categories[index] for index in sorted(categories)))
    report = convert_yolo(
        tmp_path / "names.txt",
        tmp_path / "out.jsonl",
        images=folder / "images" / split,
        labels=folder / "original_annotations" / f"yolo_labels_{split}",
        skip_unlabelled=True,
    )
    images, objects = {"train2017": (29, 205), "val2017": (27, 173)}[split]
    assert (report.images, report.objects_in, report.objects_out, report.dropped) == (images, objects, objects, {})
    records = read_records(tmp_path / "out.jsonl")
    check_images(records)
    for record in records:
        expected = boxes_of[int(record.image_path.stem)]
        assert len(record.objects) == len(expected)
        for item in record.objects:
            near = (box for index, *box in expected if categories[index] == item.desc)
            assert min(max(abs(a - b) for a, b in zip(item.bbox_2d, box, strict=True)) for box in near) <= 0.01

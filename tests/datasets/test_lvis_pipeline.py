# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.lvis_pipeline."""

import json

import numpy as np
import pytest
from PIL import Image

from coordexp_trl.coordinates import CoordinateGrid
from coordexp_trl.datasets import lvis_pipeline
from coordexp_trl.datasets.lvis_pipeline import LvisSettings, prepare_lvis
from coordexp_trl.datasets.resize_settings import ResizeSettings
from coordexp_trl.images import check_images
from coordexp_trl.records import read_records

FILES = ["{}.coord.jsonl", "{}.jsonl", "{}_tiny.coord.jsonl", "{}_tiny.jsonl"]
CATEGORIES = [
    {"id": 1, "name": "cat", "frequency": "f"},
    {"id": 2, "name": "traffic_light", "frequency": "r"},
]


def circle(num, x=40, y=30, radius=20):
    angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + (x, y)).ravel().tolist()


def bbox(polygon):
    xs, ys = polygon[::2], polygon[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


@pytest.fixture
def raw(tmp_path):
    """A folder like that of the LVIS downloads, with a function that writes the annotations of a split."""

    class Raw:
        root = tmp_path / "raw"
        base = tmp_path / "prepared"
        out = base / "rescale_32_12"

        def write(self, split, num_images=3, version="1", folder="annotations", image_folder="images/{}2017"):
            images, annotations = [], []
            for k in range(num_images):
                image_id = k + (1000 if split == "val" else 0)
                name = f"{image_id:012}.jpg"
                image = {"id": image_id, "width": 100, "height": 70}
                image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
                if version == "1":
                    image["coco_url"] = f"http://images.cocodataset.org/{split}2017/{name}"
                else:
                    image["file_name"] = name
                images.append(image)
                path = self.root / image_folder.format(split) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (100, 70), (k, 50, 90)).save(path)
                for polygon in (circle(60), circle(12, x=70)):
                    one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "area": 1.0}
                    annotations.append(one | {"bbox": bbox(polygon), "segmentation": [polygon]})
            path = self.root / folder / f"lvis_v{'1' if version == '1' else '0.5'}_{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
            return path

        def prepare(self, **options):
            settings = LvisSettings(self.root, self.base, ResizeSettings(32, 12, 1), num_workers=1, **options)
            return prepare_lvis(settings, show_progress=False)

        def written(self):
            files = (path for path in self.out.rglob("*") if path.is_file())
            return {str(path.relative_to(self.out)): path.read_bytes() for path in files}

    return Raw()


def coordinates(item):
    return item.bbox_2d or item.poly


def test_all_files(raw):
    raw.write("train", 5)
    raw.write("val")
    reports = raw.prepare(tiny=4)
    for split, images in (("train", 5), ("val", 3)):
        files = [name.format(split) for name in FILES]
        assert sorted(path.name for path in raw.out.glob(f"{split}*")) == files
        assert reports[split].rows() == [
            ("images", images),
            ("objects in", 2 * images),
            ("objects out", 2 * images),
            ("note: polygon simplified to 20 vertices", images),
        ]
        coord, pixels, tiny_coord, tiny = (read_records(raw.out / name) for name in files)
        check_images(pixels, show_progress=False)
        assert pixels[0].images == (f"images/{split}/{'000000001000' if split == 'val' else '000000000000'}.jpg",)
        assert len(tiny) == len(tiny_coord) == min(4, images)
        assert [record for record in pixels if record in tiny] == tiny
        assert [record for record in coord if record in tiny_coord] == tiny_coord
        assert [record.images for record in tiny] == [record.images for record in tiny_coord]
        grid = CoordinateGrid()
        for record, tokens in zip(pixels, coord, strict=True):
            assert (record.width, record.height) == (96, 64)
            assert record.metadata["neg_category_ids"] == [2] and record.metadata["frequencies"] == ["f", "f"]
            for item, quantised in zip(record.objects, tokens.objects, strict=True):
                assert all(value == int(value) for value in item.poly) and len(item.poly) <= 40
                points = np.reshape(item.poly, (-1, 2))
                assert grid.points_to_bins(points, 96, 64).ravel().tolist() == list(quantised.bins)
            exact = np.array([20, 10, 60, 50]) * np.tile([0.96, 64 / 70], 2)
            assert np.abs(np.array(record.objects[0].pixel_box(96, 64, grid)) - exact).max() <= 0.5


@pytest.mark.parametrize(
    ("version", "folder", "image_folder"),
    [
        ("1", "annotations", "images/{}2017"),
        ("1", "", "{}2017"),
        ("0.5", "annotations", "images"),
        ("0.5", "", "images"),
    ],
)
def test_layouts(raw, version, folder, image_folder):
    raw.write("val", version=version, folder=folder, image_folder=image_folder)
    assert raw.prepare(splits=("val",))["val"].images == 3


def test_other_places(raw, tmp_path):
    annotations = raw.write("val").rename(tmp_path / "mine.json")
    (raw.root / "images").rename(tmp_path / "photos")
    options = {"splits": ("val",), "annotations": {"val": annotations}, "images": tmp_path / "photos"}
    assert raw.prepare(**options)["val"].images == 3


def test_what_is_missing_is_named(raw):
    with pytest.raises(ValueError, match="no images. Looked for .*images/train2017.*raw/val2017.*--images"):
        raw.prepare()
    raw.write("train")
    with pytest.raises(ValueError, match="'val'. Looked for .*annotations/lvis_v1_val.json.*--val-annotations"):
        raw.prepare()
    assert not raw.base.exists()  # found out before anything is done
    with pytest.raises(ValueError, match="Looked for x.json.$"):
        raw.prepare(annotations={"train": "x.json"})
    with pytest.raises(ValueError, match="images = 'x': no such folder"):
        raw.prepare(images="x")


def test_missing_and_bad_images(raw):
    raw.write("val", 4)
    folder = raw.root / "images" / "val2017"
    (folder / "000000001001.jpg").unlink()
    whole = (folder / "000000001002.jpg").read_bytes()
    (folder / "000000001002.jpg").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="(?s)1 of 4 images cannot be used.*000000001001.jpg"):
        raw.prepare(splits=("val",))
    with pytest.raises(ValueError, match="(?s)1 of 3 images are unusable.*000000001002.jpg.*truncated"):
        raw.prepare(splits=("val",), skip_missing_images=True)
    report = raw.prepare(splits=("val",), skip_missing_images=True, skip_bad_images=True)["val"]
    assert (report.images, report.objects_in, report.objects_out) == (2, 8, 4)
    assert report.dropped == {"image missing": 2, "unusable image": 2}


@pytest.mark.parametrize(("geometry", "kinds"), [("box", {4}), ("polygon", {24, 32})])
def test_geometry(raw, geometry, kinds):
    raw.write("val")
    raw.prepare(splits=("val",), geometry=geometry)
    objects = [item for record in read_records(raw.out / "val.jsonl") for item in record.objects]
    # Of the 60 vertices 16 stay: in a regular polygon several vertices go at a time
    assert {len(coordinates(item)) for item in objects} == kinds


def test_the_box_where_simplifying_fails(raw, monkeypatch):
    raw.write("val", 1)
    monkeypatch.setattr(lvis_pipeline, "simplify_polygon", lambda polygon, max_points: None)
    report = raw.prepare(splits=("val",))["val"]
    assert report.notes == {"polygon replaced by its box": 1} and report.objects_out == 2
    (record,) = read_records(raw.out / "val.jsonl")
    assert record.objects[0].bbox_2d == (19, 9, 58, 46)


class TestAgain:
    def test_nothing_is_converted_or_resized_twice(self, raw, monkeypatch):
        raw.write("val")
        first = raw.prepare(splits=("val",))["val"]
        before = raw.written()
        monkeypatch.setattr(lvis_pipeline, "convert_lvis", None)
        second = raw.prepare(splits=("val",))["val"]
        assert second.notes.pop("images finished before") == 3
        assert second == first and raw.written() == before

    @pytest.mark.parametrize("step", ["write_records", "resize_records", "sample_records", "convert_tokens"])
    def test_a_run_that_was_cut_short(self, raw, monkeypatch, step):
        raw.write("train")
        raw.write("val")
        raw.prepare()
        expected = raw.written()
        raw.base.rename(raw.base.with_name("whole"))
        monkeypatch.setattr(lvis_pipeline, step, lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            raw.prepare()
        monkeypatch.undo()
        raw.prepare()
        assert raw.written() == expected

    @pytest.mark.parametrize("change", ["annotations", "poly_max_points", "geometry", "rename", "stamp", "records"])
    def test_what_changed_is_made_again(self, raw, change):
        annotations = raw.write("val")
        raw.prepare(splits=("val",))
        before = raw.written()
        options = {}
        if change == "annotations":
            content = json.loads(annotations.read_text())
            content["annotations"].pop()
            annotations.write_text(json.dumps(content))
        elif change == "rename":
            options = {"rename": raw.root / "rename.json"}
            options["rename"].write_text('{"cat": "kitten"}')
        elif change == "stamp":
            (raw.out / ".steps" / "val.json").write_text('{"key": ')
        elif change == "records":
            (raw.out / ".steps" / "val.jsonl").write_text("")
        else:
            options = {"poly_max_points": 6} if change == "poly_max_points" else {"geometry": "box"}
        raw.prepare(splits=("val",), **options)
        if change == "rename":
            assert read_records(raw.out / "val_tiny.coord.jsonl")[0].objects[0].desc == "kitten"
        assert (raw.written() == before) == (change in ("stamp", "records"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poly_max_points": 3}, "poly_max_points = 3: must be at least 4"),
        ({"tiny": 0}, "tiny = 0"),
        ({"splits": ("test",)}, "splits = 'test': must"),
        ({"splits": ("val", "val")}, "splits = 'val,val'"),
        ({"splits": ()}, "splits = ''"),
        ({"num_workers": 0}, "num_workers = 0"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LvisSettings("raw", "out", **options)


@pytest.mark.shared_data
def test_real_annotations(shared_data, tmp_path):
    """The 977 real objects, on grey pictures of the size of their photographs."""
    annotations = shared_data / "lvis_val_100" / "lvis_val_100.json"
    content = json.loads(annotations.read_text())
    (tmp_path / "raw" / "images" / "val2017").mkdir(parents=True)
    for image in content["images"]:
        path = tmp_path / "raw" / "images" / "val2017" / image["file_name"][-16:]
        Image.new("RGB", (image["width"], image["height"]), (90, 90, 90)).save(path)
    settings = LvisSettings(
        tmp_path / "raw", tmp_path, splits=("val",), annotations={"val": annotations}, tiny=10, num_workers=1
    )
    report = prepare_lvis(settings, show_progress=False)["val"]
    assert (report.images, report.objects_in, report.objects_out) == (100, 977, 977)
    records = read_records(settings.folder / "val.jsonl")
    check_images(records, show_progress=False)
    objects = {id: [] for id in (image["id"] for image in content["images"])}
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    grid, polygons = CoordinateGrid(), 0
    for image, record in zip(content["images"], records, strict=True):
        scale = np.tile([record.width / image["width"], record.height / image["height"]], 2)
        for annotation, item in zip(objects[image["id"]], record.objects, strict=True):
            values = coordinates(item)
            assert all(value == int(value) for value in values) and len(values) <= 40
            # The box of 13 annotations is not that of their polygon
            x, y, width, height = bbox(annotation["segmentation"][0]) if item.is_polygon else annotation["bbox"]
            box = np.array(item.pixel_box(record.width, record.height, grid))
            assert np.abs(box - np.array([x, y, x + width, y + height]) * scale).max() <= 1.51
            polygons += item.is_polygon
    assert polygons > 800 and len(read_records(settings.folder / "val_tiny.coord.jsonl")) == 10

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.datasets.resize, its worker and its journal."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from coordexp_trl.datasets import resize_worker
from coordexp_trl.datasets.conversion import ConversionReport
from coordexp_trl.datasets.resize import resize_object, resize_records
from coordexp_trl.datasets.resize_journal import JOURNAL
from coordexp_trl.datasets.resize_settings import ResizeSettings
from coordexp_trl.images import check_images, load_image
from coordexp_trl.records import DetectionObject, DetectionRecord, RecordError, read_records, write_records

SMALL = ResizeSettings(factor=32, max_blocks=12, min_blocks=1)


def picture(width=90, height=60, mode="RGB", seed=0):
    """A smooth random picture: JPEG changes it little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def data(tmp_path):
    """A folder `in` to fill with images and records, and a function that resizes it into `out`."""

    class Data:
        root = tmp_path
        file = tmp_path / "in" / "train.jsonl"
        out = tmp_path / "out" / "train.jsonl"
        images = tmp_path / "out" / "images" / "train"
        records = []

        def add(self, name, image=None, objects=(), size=None, **options):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if image is not None:
                image.save(path, **options)
            self.records.append(DetectionRecord([name], *(size or image.size), objects))
            return path

        def resize(self, settings=SMALL, out=None, **options):
            write_records(self.records, self.file)
            return resize_records(self.file, out or self.out, settings, show_progress=False, **options)

        def written(self):
            """The bytes of every file of the output, by path."""
            files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
            return {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files}

    Data.records = []
    return Data()


class TestSizes:
    @given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(32, 768, 4), (28, 1280, 4), (32, 64, 16)]))
    def test_sizes_are_those_of_qwen_and_stay(self, width, height, limits):
        factor, most, least = limits
        settings = ResizeSettings(factor, most, least)
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(ValueError, match="aspect ratio"):
                settings.target_size(width, height)
            return
        expected = smart_resize(height, width, factor, least * factor**2, most * factor**2)[::-1]
        if not least * factor**2 <= expected[0] * expected[1] <= most * factor**2:
            with pytest.raises(ValueError, match="Widen the limits"):
                settings.target_size(width, height)
            return
        new = settings.target_size(width, height)
        assert new == expected and new[0] % factor == new[1] % factor == 0
        assert settings.target_size(*new) == new

    def test_qwen3_processor_leaves_resized_images_alone(self, tiny_checkpoint):
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(tiny_checkpoint)
        size = ResizeSettings(max_blocks=768, min_blocks=64).target_size(1000, 613)
        least, most = 64 * 32**2, 768 * 32**2
        grid = processor(Image.new("RGB", size), size={"shortest_edge": least, "longest_edge": most})["image_grid_thw"]
        assert grid[0].tolist() == [1, size[1] // 16, size[0] // 16]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"factor": 0}, "factor = 0: must be an integer from 4"),
            ({"factor": -32}, "factor = -32"),
            ({"factor": 32.0}, "factor = 32.0"),
            ({"max_blocks": 0}, "max_blocks = 0"),
            ({"min_blocks": 0}, "min_blocks = 0"),
            ({"min_blocks": 9, "max_blocks": 8}, "min_blocks = 9: must be an integer from 1 to max_blocks = 8"),
            ({"quality": 101}, "quality = 101"),
            ({"quality": True}, "quality = True"),
        ],
    )
    def test_nonsense_is_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            ResizeSettings(**values)

    def test_extreme_aspect_ratio_names_the_record(self, data):
        data.add("a.jpg", picture())
        data.add("b.jpg", picture(1005, 5))
        with pytest.raises(RecordError, match=r"train.jsonl:2: images\[0\] = 'b.jpg': .*aspect ratio"):
            data.resize()


class TestGeometry:
    @given(st.data(), st.tuples(*[st.integers(1, 500)] * 2), st.tuples(*[st.integers(1, 20)] * 2))
    def test_boxes(self, draw, old, blocks):
        new = (32 * blocks[0], 32 * blocks[1])
        xs, ys = (sorted(draw.draw(st.lists(st.floats(0, side), min_size=2, max_size=2, unique=True))) for side in old)
        box = (xs[0], ys[0], xs[1], ys[1])
        resized = resize_object(DetectionObject("a", bbox_2d=box), old, new).bbox_2d
        x1, y1, x2, y2 = resized
        assert all(value == int(value) for value in resized)
        assert 0 <= x1 < x2 <= new[0] and 0 <= y1 < y2 <= new[1]
        exact = np.array(box) * np.tile(np.array(new) / old, 2)
        assert (np.abs(exact - resized) <= 1.5 + 1e-6).all()
        wide = exact[2:] - exact[:2] >= 1.01
        assert (np.abs(exact - resized)[np.tile(wide, 2)] <= 0.5 + 1e-6).all()

    @given(st.data(), st.tuples(*[st.integers(1, 500)] * 2))
    def test_polygons(self, draw, old):
        new = (64, 32)
        points = draw.draw(st.lists(st.tuples(*(st.floats(0, side) for side in old)), min_size=3, max_size=30))
        resized = resize_object(DetectionObject("a", poly=[v for point in points for v in point]), old, new)
        xs, ys = resized.poly[::2], resized.poly[1::2]
        assert all(value == int(value) for value in resized.poly)
        assert 0 <= min(xs) < max(xs) <= 64 and 0 <= min(ys) < max(ys) <= 32
        assert 3 <= len(xs) <= len(points)

    def test_equal_neighbours_are_merged(self):
        item = DetectionObject("a", poly=(0, 0, 10, 0, 10.2, 0.1, 10, 10, 0, 10, 0.1, 0.2))
        assert resize_object(item, (32, 32), (32, 32)).poly == (10, 0, 10, 10, 0, 10, 0, 0)

    def test_a_flat_polygon_keeps_its_vertices_and_gets_a_box(self):
        item = DetectionObject("a", poly=(5, 32, 5.1, 32, 5.2, 31.9))
        assert resize_object(item, (32, 32), (32, 32)).poly == (5, 32, 5, 32, 6, 31)

    def test_bins_are_kept(self):
        item = DetectionObject("a", bins=(1, 2, 3, 999))
        assert resize_object(item, (640, 480), (32, 32)) is item

    def test_scales(self, data):
        data.add("a.png", picture(200, 100), [DetectionObject("cat", (20, 10, 100, 50))])
        assert data.resize().objects_out == 1
        (record,) = read_records(data.out)
        assert (record.width, record.height) == (128, 64)  # 12 blocks allow 4 x 2
        assert record.objects == (DetectionObject("cat", (13, 6, 64, 32)),)


class TestImages:
    def test_what_is_written(self, data):
        """Modes become RGB; what needs no change is copied; the folder can be moved."""
        kept = data.add("kept.jpg", picture(96, 64), quality=80, comment=b"hello")
        kept_png = data.add("sub/kept.png", picture(96, 64))
        data.add("large.jpg", picture(200, 100), exif=_exif(6), comment=b"hello")
        for mode in ("L", "CMYK"):
            data.add(f"{mode}.jpg", picture(96, 64, mode))
        for mode in ("P", "LA", "RGBA", "1"):
            data.add(f"{mode}.png", picture(90, 60, mode))
        report = data.resize()
        assert report == ConversionReport(images=9)
        shutil.move(data.root / "out", data.root / "moved")
        records = read_records(data.root / "moved" / "train.jsonl")
        check_images(records, show_progress=False)
        assert records[0].image_path.read_bytes() == kept.read_bytes()
        assert records[1].image_path.read_bytes() == kept_png.read_bytes()
        assert [record.images[0] for record in records[:3]] == [
            "images/train/kept.jpg",
            "images/train/sub/kept.png",
            "images/train/large.jpg",
        ]
        for record, source in zip(records, data.records, strict=True):
            with Image.open(record.image_path) as image:
                assert image.mode == "RGB" and (image.format == "JPEG" or source.images[0].endswith("kept.png"))
                assert image.size == SMALL.target_size(source.width, source.height)
            with Image.open(data.file.parent / source.images[0]) as image:
                expected = image.convert("RGB").resize((record.width, record.height), Image.Resampling.BICUBIC)
            dithered = source.images[0] in ("1.png", "P.png")
            error = np.abs(np.asarray(expected, float) - np.asarray(load_image(record), float)).mean()
            assert error < (0.01 if "kept" in record.images[0] else 12 if dithered else 4)

    def test_colours_survive(self, data):
        """CMYK, palette and grey are not inverted or shifted."""
        for name, mode in (("a.jpg", "CMYK"), ("b.png", "P"), ("c.jpg", "RGB")):
            data.add(name, Image.new("RGB", (90, 60), (200, 40, 90)).convert(mode))
        data.add("d.jpg", Image.new("L", (90, 60), 77))
        data.resize()
        colours = [load_image(record).getpixel((5, 5)) for record in read_records(data.out)]
        for colour, expected in zip(colours, [(200, 40, 90)] * 3 + [(77, 77, 77)], strict=True):
            assert np.abs(np.subtract(colour, expected)).max() < 30
        assert max(np.abs(np.subtract(colours[2], (200, 40, 90)))) <= 2 and max(colours[3]) - min(colours[3]) == 0

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_orientation_is_neither_applied_nor_passed_on(self, data, orientation):
        source = data.add("a.jpg", picture(96, 64), exif=_exif(orientation), quality=90)
        data.add("b.jpg", picture(96, 64), exif=_exif(1), quality=90)
        data.resize()
        rotated, plain = read_records(data.out)
        with Image.open(rotated.image_path) as image, Image.open(source) as original:
            assert image.size == (96, 64) and not image.getexif() and "exif" not in image.info
            assert np.abs(np.asarray(image, float) - np.asarray(original, float)).mean() < 10
        assert plain.image_path.read_bytes() == (data.file.parent / "b.jpg").read_bytes()

    def test_annotated_on_the_rotated_image(self, data):
        data.add("a.jpg", picture(96, 64), size=(64, 96), exif=_exif(6))
        with pytest.raises(RecordError, match="(?s)train.jsonl:1: .*EXIF orientation of the file explains it"):
            data.resize()

    def test_one_image_of_two_records(self, data):
        data.add("a.jpg", picture(), [DetectionObject("a", (1, 2, 3, 9))])
        data.add("./a.jpg", objects=[DetectionObject("b", (1, 2, 3, 9))], size=(90, 60))
        assert data.resize().images == 2
        assert [record.images for record in read_records(data.out)] == [("images/train/a.jpg",)] * 2
        assert len(list(data.images.glob("*.jpg"))) == 1

    def test_one_image_with_two_sizes(self, data):
        data.add("a.jpg", picture())
        data.add("a.jpg", size=(60, 90))
        with pytest.raises(RecordError, match="train.jsonl:2: .*is 60 x 90 pixels here, but 90 x 60 in .*:1"):
            data.resize()

    def test_equal_names_do_not_collide(self, data):
        colours = {"x/a.jpg": 10, "y/a.jpg": 60, "a.jpg": 110, "a.png": 160, "A.jpg": 210, "y/a-2.jpg": 250}
        for name, colour in colours.items():
            data.add(name, Image.new("RGB", (90, 60), (colour,) * 3))
        data.resize()
        records = read_records(data.out)
        assert [load_image(record).getpixel((9, 9))[0] for record in records] == list(colours.values())
        assert len({record.images[0].casefold() for record in records}) == len(colours)

    def test_absolute_paths_and_further_images(self, data):
        (data.root / "elsewhere").mkdir()
        picture().save(data.root / "elsewhere" / "a.jpg")
        data.records += [DetectionRecord([str(data.root / "elsewhere" / "a.jpg"), "b.jpg"], 90, 60, [])]
        data.add("in.jpg", picture())
        data.resize()
        first, second = read_records(data.out)
        assert first.images == ("images/train/elsewhere/a.jpg", str(data.root / "in" / "b.jpg"))
        assert second.images == ("images/train/in/in.jpg",)

    def test_image_root(self, data):
        data.add("a.jpg", picture())
        (data.root / "photos").mkdir()
        shutil.move(data.root / "in" / "a.jpg", data.root / "photos" / "a.jpg")
        data.resize(image_root=data.root / "photos")
        check_images(read_records(data.out), show_progress=False)

    def test_metadata_summary_and_bins_are_kept(self, data):
        data.add("a.jpg", picture())
        objects = [DetectionObject("a", bins=(1, 2, 3, 4))]
        data.records[0] = DetectionRecord(["a.jpg"], 90, 60, objects, summary="s", metadata={"id": 1})
        data.resize()
        (record,) = read_records(data.out)
        assert (record.summary, record.metadata, record.objects) == ("s", {"id": 1}, tuple(objects))

    def test_two_files_in_one_folder(self, data):
        data.add("a.jpg", picture(seed=1))
        data.resize(out=data.root / "out")
        data.records.clear()
        data.add("a.jpg", picture(seed=2))
        other = data.root / "in" / "val.jsonl"
        write_records(data.records, other)
        resize_records(other, data.root / "out", SMALL, show_progress=False)
        pixels = [load_image(read_records(data.root / "out" / f"{split}.jsonl")[0]) for split in ("train", "val")]
        assert pixels[0].tobytes() != pixels[1].tobytes()


def _exif(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


class TestBadImages:
    @pytest.fixture
    def bad(self, data):
        """A good image among bad ones of all kinds, one object each."""
        objects = [DetectionObject("a", (1, 2, 30, 40))]
        data.add("good.jpg", picture(), objects)
        data.add("missing.jpg", objects=objects, size=(90, 60))
        truncated = data.add("truncated.jpg", picture(96, 64), objects, quality=95)
        truncated.write_bytes(truncated.read_bytes()[:-900])
        data.add("size.jpg", picture(90, 60), objects, size=(91, 60))
        data.add("deep.png", Image.fromarray(np.zeros((60, 90), np.uint16)), objects)
        data.add("text.jpg", objects=objects, size=(90, 60)).write_text("no image")
        data.add("empty.jpg", objects=objects, size=(90, 60)).write_bytes(b"")
        return data

    def test_all_are_named_and_the_rest_is_finished(self, bad):
        with pytest.raises(RecordError) as error:
            bad.resize()
        first, *lines = str(error.value).splitlines()
        assert first == "6 of 7 images are unusable:"
        expected = ["2: images[0] = ", "3: ", "4: ", "5: ", "6: "]
        for line, start in zip(lines, expected, strict=False):
            assert line.startswith(f"  {bad.file}:{start}")
        words = ["no such file", "truncated", "91 x 60", "16", "cannot be decoded"]
        for line, word in zip(lines, words, strict=False):
            assert word in line
        assert lines[5] == "  ... and 1 more" and "--skip-bad-images" in lines[6]
        assert not bad.out.exists() and (bad.images / "good.jpg").is_file()
        assert not list(bad.images.glob(".*.tmp"))

    def test_they_are_left_out_and_counted(self, bad):
        report = bad.resize(skip_bad_images=True)
        assert report == ConversionReport(
            images=1,
            objects_in=7,
            objects_out=1,
            dropped={"unusable image": 6},
            notes={"records left out: unusable image": 6},
        )
        assert [record.images for record in read_records(bad.out)] == [("images/train/good.jpg",)]

    def test_a_corrected_image_is_all_that_is_done_again(self, bad):
        bad.resize(skip_bad_images=True)
        before = (bad.images / "good.jpg").stat().st_mtime_ns
        picture(90, 60).save(bad.root / "in" / "missing.jpg")
        report = bad.resize(skip_bad_images=True)
        assert report.images == 2 and report.notes["images finished before"] == 1
        assert (bad.images / "good.jpg").stat().st_mtime_ns == before

    def test_nothing_but_bad_images(self, data):
        data.add("missing.jpg", size=(9, 9))
        with pytest.raises(RecordError, match="(?s)1 of 1 images are unusable.*missing.jpg"):
            data.resize(skip_bad_images=True)

    def test_path_that_leaves_the_root(self, data):
        data.file.parent.mkdir()
        data.file.write_text('{"images": ["../a.jpg"], "width": 9, "height": 9, "objects": []}\n')
        with pytest.raises(RecordError, match="train.jsonl:1: .*leaves the image root"):
            resize_records(data.file, data.out, show_progress=False)


class TestOutput:
    def test_never_the_input(self, data):
        data.add("a.jpg", picture())
        write_records(data.records, data.file)
        before = data.file.read_bytes()
        (data.root / "link.jsonl").symlink_to(data.file)
        for out in (data.file, data.file.parent, data.root / "link.jsonl"):
            with pytest.raises(ValueError, match="is the file that is read"):
                resize_records(data.file, out, SMALL, show_progress=False)
        assert data.file.read_bytes() == before

    def test_never_over_the_images_that_are_read(self, data):
        source = data.add("images/resized/a.jpg", picture())
        before = source.read_bytes()
        with pytest.raises(ValueError, match="train.jsonl:1: .*lies in the folder that would be written"):
            data.resize(out=data.file.parent / "resized.jsonl")
        assert source.read_bytes() == before

    def test_below_the_input_is_fine(self, data):
        source = data.add("images/a.jpg", picture())
        before = source.read_bytes()
        data.resize(out=data.file.parent / "resized.jsonl")
        assert source.read_bytes() == before
        (record,) = read_records(data.file.parent / "resized.jsonl")
        assert record.images == ("images/resized/a.jpg",)

    def test_a_full_disk(self, data, monkeypatch):
        for index in range(3):
            data.add(f"{index}.jpg", picture())
        data.resize()  # the journal is written, then the images vanish
        before = data.written()
        (data.images / "1.jpg").unlink()

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device", args[2])

        monkeypatch.setattr(resize_worker, "_encode", full)
        with pytest.raises(OSError, match="No space left on device: .*1.jpg"):
            data.resize()
        assert not list(data.images.glob(".*.tmp"))
        monkeypatch.undo()
        data.resize()
        assert data.written() == before

    def test_a_file_that_cannot_be_written_by_a_worker(self, data):
        for index in range(20):
            data.add(f"{index:02}.jpg", picture())
        (data.images / "13.jpg").mkdir(parents=True)
        with pytest.raises(OSError, match="13.jpg"):
            data.resize(num_workers=2)
        assert not data.out.exists() and not list(data.images.glob(".*.tmp"))
        (data.images / "13.jpg").rmdir()
        assert data.resize(num_workers=2).notes["images finished before"] >= 8
        check_images(read_records(data.out), show_progress=False)

    def test_output_that_cannot_be_made(self, data):
        data.add("a.jpg", picture())
        (data.root / "out").write_text("a file")
        with pytest.raises(OSError):
            data.resize()

    def test_bad_num_workers(self, data):
        data.add("a.jpg", picture())
        with pytest.raises(ValueError, match="num_workers = 0"):
            data.resize(num_workers=0)


class TestResume:
    @pytest.fixture
    def full(self, data):
        for index in range(20):
            data.add(f"{index:02}.jpg", picture(90 + index, 60, seed=index), [DetectionObject("a", (1, 2, 30, 40))])
        return data

    def test_workers_change_nothing(self, full):
        full.resize(num_workers=1)
        one = full.written()
        shutil.rmtree(full.root / "out")
        full.resize(num_workers=2)
        assert full.written() == one

    def test_finished_images_are_not_made_again(self, full, monkeypatch):
        full.resize()
        before = full.written()
        made = []
        monkeypatch.setattr("coordexp_trl.datasets.resize.resize_image", lambda job: made.append(job))
        assert full.resize(num_workers=1).notes == {"images finished before": 20}
        assert not made and full.written() == before

    @pytest.mark.parametrize("damage", ["truncated", "missing", "journal"])
    def test_damage_is_repaired(self, full, damage):
        full.resize()
        before = full.written()
        image = full.images / "07.jpg"
        if damage == "truncated":
            image.write_bytes(image.read_bytes()[:-10])
        elif damage == "missing":
            image.unlink()
        else:  # a line cut in the middle, as after a power failure
            journal = full.images / JOURNAL
            journal.write_bytes(journal.read_bytes()[:-30])
        assert full.resize().notes == {"images finished before": 19}
        assert full.written() == before

    @pytest.mark.parametrize(
        "settings", [ResizeSettings(32, 4, 1), ResizeSettings(16, 12, 1), ResizeSettings(32, 12, 1, quality=50)]
    )
    def test_other_settings_make_all_again(self, full, settings):
        full.resize()
        assert full.resize(settings=settings).notes == {}
        changed = full.written()
        shutil.rmtree(full.root / "out")
        full.resize(settings=settings)
        assert full.written() == changed

    def test_a_changed_source_is_made_again_and_a_dropped_one_removed(self, full):
        full.resize()
        picture(95, 60, seed=99).save(full.root / "in" / "05.jpg")
        del full.records[3]
        assert full.resize().notes == {"images finished before": 18}
        changed = full.written()
        assert "images/train/03.jpg" not in changed
        shutil.rmtree(full.root / "out")
        full.resize()
        assert full.written() == changed

    def test_old_records_do_not_outlive_their_images(self, full):
        full.resize()
        (full.root / "in" / "04.jpg").unlink()
        with pytest.raises(RecordError):
            full.resize(settings=ResizeSettings(32, 4, 1))
        assert not full.out.exists()

    def test_a_killed_run_goes_on(self, data):
        photograph = picture(700, 500)
        for index in range(100):
            data.add(f"{index:03}.jpg", photograph, [DetectionObject("a", (1, 2, 30, 40))])
        write_records(data.records, data.file)
        script = (
            "import sys\nif __name__ == '__main__':\n    from coordexp_trl.datasets.resize import resize_records\n"
            "    resize_records(sys.argv[1], sys.argv[2], num_workers=2, show_progress=False)\n"
        )
        (data.root / "run.py").write_text(script)
        command = [sys.executable, str(data.root / "run.py"), str(data.file), str(data.out)]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        deadline = time.monotonic() + 120
        while len(list(data.images.glob("*.jpg"))) < 25:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not data.out.exists()
        report = resize_records(data.file, data.out, num_workers=2, show_progress=False)
        assert 0 < report.notes["images finished before"] < 100
        resumed = data.written()
        shutil.rmtree(data.root / "out")
        resize_records(data.file, data.out, num_workers=1, show_progress=False)
        assert resumed == data.written()

    def test_two_runs_at_once(self, full):
        import fcntl

        full.resize()
        lock = os.open(full.images, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run writes into this folder"):
            full.resize()
        os.close(lock)
        full.resize()

    def test_a_foreign_journal_removes_nothing_outside(self, full):
        full.resize()
        precious = full.root / "precious.jpg"
        precious.write_text("x")
        lines = [
            {"name": name, "suffix": ".jpg", "bytes": 1, "source": ""}
            for name in ("../../../precious", str(precious.with_suffix("")))
        ]
        with open(full.images / JOURNAL, "a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        full.resize()
        assert precious.exists()


@pytest.mark.shared_data
def test_real_photographs(shared_data, tmp_path):
    folder = shared_data / "coco_permissive"
    photographs = sorted(Path(folder).rglob("*.jpg"))[:12]
    records = []
    for path in photographs:
        with Image.open(path) as image:
            box = (0.25 * image.width, 0.25 * image.height, 0.75 * image.width, 0.75 * image.height)
            records.append(DetectionRecord([str(path)], *image.size, [DetectionObject("centre", box)]))
    write_records(records, tmp_path / "in.jsonl")
    resize_records(tmp_path / "in.jsonl", tmp_path / "out", show_progress=False)
    resized = read_records(tmp_path / "out" / "in.jsonl")
    check_images(resized, show_progress=False)
    for before, after in zip(records, resized, strict=True):
        assert after.width % 32 == after.height % 32 == 0 and 4 <= after.width * after.height / 1024 <= 768
        assert after.width / after.height == pytest.approx(before.width / before.height, rel=0.1)
        x1, y1, x2, y2 = after.objects[0].bbox_2d
        assert abs(x1 - 0.25 * after.width) <= 0.5 and abs(x2 - 0.75 * after.width) <= 0.5
        assert abs(y1 - 0.25 * after.height) <= 0.5 and abs(y2 - 0.75 * after.height) <= 0.5


def test_a_large_file_is_read_twice_instead_of_kept(data, monkeypatch):
    for index in range(4):
        data.add(f"{index}.jpg", picture(), [DetectionObject("a", (1, 2, 30, 40))])
    data.resize()
    before = data.written()
    shutil.rmtree(data.root / "out")
    monkeypatch.setattr("coordexp_trl.datasets.resize._KEPT_SIZE", 10)
    data.resize()
    assert data.written() == before

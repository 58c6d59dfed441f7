# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Speed of preparing data: COCO annotations and photographs to records, resized, on one and two worker processes.

Four arms on the same files: a bare loop of Pillow that decodes, resizes and encodes (same sizes, filter and quality,
no records, no checks), the same loop in two processes, which is what the machine's second core can give at most, and
`convert_coco` + `resize_records` with one and with two workers. The photographs are linked
under many names to have enough of them; files are read once before, so that the disk does not count. The arms
alternate, and the best of the repeats counts. Photographs whose size is right already would be copied, which is
faster than any loop; so the sizes are limited to 256 blocks, where every photograph is resized. The outputs of one and
two workers are compared byte for byte. Goals: two workers at least 1.7 times as fast as one, one worker at least 0.9
times as fast as the bare loop.

    python benchmarks/data_pipeline.py --images DIR --annotations instances_train2017.json
    python benchmarks/data_pipeline.py --images DIR --annotations instances_train2017.json --num-images 100 --repeats 1
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import PIL
from machine import cpu_model
from PIL import Image, features

# The library is imported by the functions: spawned workers import this file too, as they import the `coordexp` command
MAX_BLOCKS = 256
QUALITY = 95


def replicate(images: Path, annotations: Path, num_images: int, folder: Path) -> Path:
    """Writes an annotation file of `num_images` photographs, copies of those given, and returns its path."""
    content = json.loads(annotations.read_text())
    objects = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    (folder / "photographs").mkdir()
    copies, copied = [], []
    for number, image in zip(range(num_images), itertools.cycle(content["images"]), strict=False):
        name = f"{number:06}.jpg"
        shutil.copyfile(images / image["file_name"], folder / "photographs" / name)
        copies.append(image | {"id": number, "file_name": name})
        copied += [one | {"image_id": number, "id": len(copied) + k} for k, one in enumerate(objects[image["id"]], 1)]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content | {"images": copies, "annotations": copied}))
    return path


def bare_loop(folder: Path, out: Path, part: slice = slice(None)) -> None:
    from coordexp_trl.datasets.resize_settings import ResizeSettings

    settings = ResizeSettings(max_blocks=MAX_BLOCKS)
    out.mkdir(exist_ok=True)
    for path in sorted((folder / "photographs").iterdir())[part]:
        with Image.open(path) as image:
            size = settings.target_size(*image.size)
            image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        image.save(out / path.name, quality=QUALITY)


def two_bare_loops(folder: Path, out: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        halves = [pool.submit(bare_loop, folder, out, slice(first, None, 2)) for first in range(2)]
        for half in halves:
            half.result()


def pipeline(folder: Path, annotations: Path, out: Path, num_workers: int) -> None:
    from coordexp_trl.datasets.coco import convert_coco
    from coordexp_trl.datasets.resize import resize_records
    from coordexp_trl.datasets.resize_settings import ResizeSettings

    records = folder / f"records-{num_workers}" / "train.jsonl"
    convert_coco(annotations, folder / "photographs", records)
    settings = ResizeSettings(max_blocks=MAX_BLOCKS, quality=QUALITY)
    resize_records(records, out, settings, num_workers=num_workers, show_progress=False)


def measure(function: Callable[[], None], out: Path) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process and its ended workers."""
    shutil.rmtree(out, ignore_errors=True)
    before, start = os.times(), time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    return seconds, sum(os.times()[:4]) - sum(before[:4])


def output(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances of photographs in the folder")
    parser.add_argument("--num-images", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    from coordexp_trl.records import read_records

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        annotations = replicate(options.images, options.annotations, options.num_images, folder)
        arms = {
            "bare Pillow loop": lambda out: bare_loop(folder, out),
            "the same, 2 processes": lambda out: two_bare_loops(folder, out),
            "1 worker": lambda out: pipeline(folder, annotations, out, 1),
            "2 workers": lambda out: pipeline(folder, annotations, out, 2),
        }
        times = {name: [] for name in arms}
        bare_loop(folder, folder / "warm-up")  # also imports transformers
        for _ in range(options.repeats):
            for name, arm in arms.items():
                out = folder / name
                times[name].append(measure(lambda: arm(out), out))  # noqa: B023
        one, two = (output(folder / name) for name in ("1 worker", "2 workers"))
        assert one == two, "the number of workers changed the output"
        assert sum(name.endswith(".jpg") for name in one) == options.num_images
        objects = sum(len(record.objects) for record in read_records(folder / "1 worker" / "train.jsonl"))

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    print(
        f"\n{cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}, Pillow {PIL.__version__}, "
        f"libjpeg-turbo {jpeg}; {options.num_images} images, {objects} objects, best of {options.repeats}; "
        f"load of the machine at the end {os.getloadavg()[0]:.1f}.\n"
    )
    best = {name: min(values) for name, values in times.items()}
    bare, twice, one, two = (seconds for seconds, _ in best.values())
    print("| arm | seconds | images/s | CPU seconds | speed of the bare loop |\n|---|---:|---:|---:|---:|")
    for name, (seconds, cpu) in best.items():
        rate = options.num_images / seconds
        print(f"| {name} | {seconds:.2f} | {rate:.0f} | {cpu:.2f} | {bare / seconds:.2f} |")
    print(f"\nTwo bare loops at once: {bare / twice:.2f} × one of them.")
    print(f"Two workers: {one / two:.2f} × one (goal 1.7). One worker: {bare / one:.2f} × the bare loop (goal 0.9).")
    if one / two < 1.7 or bare / one < 0.9:
        sys.exit("Goal missed.")
    print("Goals met.")


if __name__ == "__main__":
    main()

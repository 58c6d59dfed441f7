# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Time of an evaluation beside pycocotools, on the same boxes.

Every image has as many ground-truth objects, of 80 classes; nine in ten are found, somewhat beside, and some boxes are
wrong. pycocotools computes AP and AR (loading the results, evaluate, accumulate). The second arm computes the same AP
and AR (compared); the third all that `coordexp eval` does: besides them F1 at ten thresholds, per class, sizes,
confusions, reliability and the interval of constant scores. All start from what is in memory. Goal: at most a third of
pycocotools' time.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 200 --repeats 1
"""

import argparse
import contextlib
import io
import os
import time
from importlib.metadata import version

import numpy as np
from machine import cpu_model
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp_trl.evaluation.average_precision import precision_curves
from coordexp_trl.evaluation.comparison import Comparison
from coordexp_trl.evaluation.evaluate import evaluate
from coordexp_trl.evaluation.samples import ImageDetections


def make(num_images: int, num_objects: int, num_classes: int) -> tuple[dict, list[dict], list[ImageDetections]]:
    rng = np.random.default_rng(0)
    categories = [{"id": k, "name": f"class {k}"} for k in range(num_classes)]
    gt, results, images = {"images": [], "annotations": [], "categories": categories}, [], []
    for number in range(1, num_images + 1):
        low = rng.uniform(0, 500, (num_objects, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 150, (num_objects, 2))], axis=1)
        classes = rng.integers(0, num_classes, num_objects)
        kept = rng.random(num_objects) < 0.9
        found = np.concatenate([boxes[kept] + rng.normal(0, 2, (kept.sum(), 4)), boxes[~kept] + 200])
        labels = np.concatenate([classes[kept], classes[~kept]])
        scores = rng.random(len(found))
        gt["images"].append({"id": number, "width": 640, "height": 640})
        for box, label in zip(boxes.tolist(), classes.tolist(), strict=True):
            w, h = box[2] - box[0], box[3] - box[1]
            item = {"id": len(gt["annotations"]) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
            gt["annotations"].append(item | {"bbox": [*box[:2], w, h], "area": w * h})
        for box, label, score in zip(found.tolist(), labels.tolist(), scores.tolist(), strict=True):
            bbox = [*box[:2], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": number, "category_id": label, "bbox": bbox, "score": score})
        names, gt_names = ([f"class {k}" for k in each] for each in (labels, classes))
        images.append(ImageDetections(found, names, scores, boxes, gt_names))
    return gt, results, images


def by_pycocotools(truth: COCO, results: list[dict]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes([dict(item) for item in results]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


def ap_alone(images: list[ImageDetections]) -> list[float]:
    curves = precision_curves([Comparison(image) for image in images])
    return [curves.ap(), curves.ap(0.5), curves.ap(0.75)]


def by_this_project(images: list[ImageDetections]) -> list[float]:
    metrics = evaluate(images).metrics
    return [metrics[name] for name in ("ap", "ap50", "ap75")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--objects", type=int, default=20, help="objects per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    gt, results, images = make(options.images, options.objects, options.classes)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = gt
        truth.createIndex()
    arms = {
        "pycocotools": lambda: by_pycocotools(truth, results),
        "AP and AR, this project": lambda: ap_alone(images),
        "all of coordexp eval": lambda: by_this_project(images),
    }
    best, found = dict.fromkeys(arms, float("inf")), {}
    for _ in range(options.repeats):
        for name, arm in arms.items():
            started = time.perf_counter()
            found[name] = arm()
            best[name] = min(best[name], time.perf_counter() - started)
    for values in found.values():
        assert np.allclose(values, found["pycocotools"], atol=1e-6), found
    print(
        f"{cpu_model()}, {os.cpu_count()} cores, numpy {np.__version__}, pycocotools {version('pycocotools')}; "
        f"{options.images} images × {options.objects} objects, {options.classes} classes, minimum of "
        f"{options.repeats} runs.\n"
    )
    print("| | seconds | ratio |\n|---|---:|---:|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.1f} | {seconds / best['pycocotools']:.2f} |")


if __name__ == "__main__":
    main()

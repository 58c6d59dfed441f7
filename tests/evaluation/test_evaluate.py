# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of a data set: hand-computed cases, pycocotools on random sets, and orders that must not matter."""

import contextlib
import io
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp_trl.evaluation.average_precision import ANY_AREA, precision_curves
from coordexp_trl.evaluation.comparison import Comparison
from coordexp_trl.evaluation.evaluate import EvaluationSettings, evaluate
from coordexp_trl.evaluation.samples import ImageDetections
from coordexp_trl.evaluation.tie_interval import constant_score_interval

A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (80, 80, 90, 90)


def image(predictions, truths, **options):
    """Predictions as (desc, box) or (desc, box, score), GT as (desc, box)."""
    scores = [item[2] for item in predictions if len(item) > 2]
    return ImageDetections(
        [item[1] for item in predictions],
        [item[0] for item in predictions],
        scores if len(scores) == len(predictions) else None,
        [item[1] for item in truths],
        [item[0] for item in truths],
        **options,
    )


def metrics(*images, **settings):
    return evaluate(images, EvaluationSettings(**settings)).metrics


# F1


@pytest.mark.parametrize("with_truth", [True, False])
def test_a_perfect_and_an_always_wrong_class_give_macro_f1_one_half(with_truth):
    truths = [("cat", A)] + [("dog", B)] * with_truth
    found = metrics(image([("cat", A, 0.9), ("dog", FAR, 0.8)], truths))
    assert found["macro_f1_50"] == found["macro_f1_75"] == found["macro_f1_50_95"] == 0.5
    assert found["f1_50"] == (0.5 if with_truth else 2 / 3)


def test_counts_at_each_threshold():
    # IoU 8/12 = .667 of the second pair
    found = evaluate([image([("cat", A, 0.9), ("cat", (22, 0, 32, 10), 0.8)], [("cat", A), ("cat", B)])])
    assert [row["tp"] for row in found.by_iou] == [2] * 4 + [1] * 6
    assert found.metrics["f1"] == 1 and found.metrics["f1_75"] == 0.5
    assert found.metrics["f1_50_95"] == pytest.approx((4 * 1 + 6 * 0.5) / 10)
    assert found.metrics["mean_iou_50"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found.metrics["tp_75"], found.metrics["fp_75"], found.metrics["fn_75"]) == (1, 1, 1)


def test_another_main_threshold_gets_a_row_of_its_own():
    found = evaluate([image([("cat", (22, 0, 32, 10), 0.8)], [("cat", B)])], EvaluationSettings(iou_threshold=0.68))
    assert [row["iou"] for row in found.by_iou][:5] == [0.5, 0.55, 0.6, 0.65, 0.68]
    assert found.metrics["f1"] == 0 and found.metrics["f1_50"] == 1


def test_crowd_regions_excuse_and_need_not_be_found():
    region = (0, 0, 100, 20)
    found = evaluate(
        [image([("cat", B, 0.9), ("cat", C, 0.8), ("dog", A, 0.7)], [("cat", B), ("cat", region)], gt_crowd=[0, 1])]
    )
    assert (found.metrics["tp_50"], found.metrics["fp_50"], found.metrics["fn_50"]) == (1, 1, 0)
    (outcome,) = found.outcomes
    assert outcome.ignored == [1]  # a dog in a crowd of cats is wrong


def test_federated_truth_judges_what_it_knows():
    truths = [("cat", A)]
    predictions = [("cat", A, 0.9), ("cat", B, 0.8), ("dog", B, 0.7), ("cow", B, 0.6)]
    found = evaluate([image(predictions, truths, absent=["dog"])])
    assert (found.metrics["tp_50"], found.metrics["fp_50"]) == (1, 2)  # nobody looked for cows
    found = evaluate([image(predictions, truths, absent=["dog"], incomplete=["cat"])])
    assert (found.metrics["tp_50"], found.metrics["fp_50"]) == (1, 1)  # the second cat may be there


def test_duplicates_and_confusions_are_named():
    found = evaluate([image([("cat", A, 0.9), ("cat", A, 0.8), ("dog", B, 0.7)], [("cat", A), ("Horse", B)])])
    (outcome,) = found.outcomes
    assert len(outcome.duplicates) == 1 and found.metrics["duplicate_rate"] == 1 / 3
    assert found.confusions == [{"ground_truth": "Horse", "prediction": "dog", "count": 1}]
    assert metrics(image([("dog", B, 0.7)], [("Horse", B)]), class_agnostic=True)["f1"] == 1


def test_per_class_rows():
    rows = evaluate([image([("cat", A, 0.9), ("dog", FAR, 0.8)], [("cat", A), ("cat", B)])]).classes
    cat, dog = rows
    assert (cat["class"], cat["gt"], cat["tp"], cat["fn"], cat["images"]) == ("cat", 2, 1, 1, 1)
    assert cat["ap50"] == pytest.approx(51 / 101)
    assert (dog["gt"], dog["fp"], dog["ap"], dog["mean_iou"]) == (0, 1, None, None)


def test_sizes_follow_the_annotated_area():
    found = evaluate([image([("cat", (0, 0, 100, 100), 0.9)], [("cat", (0, 0, 100, 100))], gt_areas=[50.0])])
    assert [row["gt"] for row in found.by_size] == [1, 0, 0]
    assert found.by_size[0]["recall"] == 1 and found.by_size[1]["recall"] is None


# Scores


def test_reliability_and_calibration_error():
    predictions = [("cat", A, 0.95), ("cat", FAR, 0.85), ("cat", B, 0.85)]
    found = evaluate([image(predictions, [("cat", A), ("cat", B)])])
    assert [(row["count"], row["precision"]) for row in found.reliability if row["count"]] == [(2, 0.5), (1, 1.0)]
    assert found.metrics["ece"] == pytest.approx((2 * 0.35 + 0.05) / 3)
    assert evaluate([image([("cat", A, 3.0), ("cat", B, 2.0)], [("cat", A)])]).reliability == []


def test_without_different_scores_there_is_an_interval_instead_of_ap():
    for predictions in ([("cat", A), ("cat", FAR)], [("cat", A, 1.0), ("cat", FAR, 1.0)]):
        found = evaluate([image(predictions, [("cat", A)])])
        assert found.metrics["ap"] is None and found.metrics["ece"] is None
        assert (found.metrics["ap_constant_min"], found.metrics["ap_constant_max"]) == (0.5, 1.0)
        assert any("AP left out" in note for note in found.notes)


def test_nothing_predicted_and_nothing_to_find():
    nothing = metrics(image([], [("cat", A)]))
    assert nothing["f1"] == nothing["ap"] == nothing["ar"] == nothing["ap_constant_max"] == 0 and nothing["fn_50"] == 1
    empty = metrics(image([("cat", A, 0.5)], []))
    assert empty["f1"] == 0 and empty["ap"] is None and empty["ap_constant_max"] is None and empty["fp_50"] == 1
    assert metrics()["f1"] == 0


def test_more_detections_than_count_are_said():
    boxes = [(20.0 * k, 0, 20.0 * k + 10, 10) for k in range(120)]
    truths = [("cat", box) for box in boxes]
    found = evaluate([image([("cat", box, 0.9 - k / 1000) for k, box in enumerate(boxes)], truths)])
    assert found.metrics["recall"] == 1 and found.metrics["ar"] == pytest.approx(100 / 120)
    assert found.notes == {"predictions beyond 100 of a class in an image: not in AP and AR, but in F1": 20}
    assert metrics(image([("cat", box, 0.5) for box in boxes], truths), max_detections=120)["ar"] == 1


def test_settings_out_of_range_are_refused():
    for name, value in (("iou_threshold", 0), ("duplicate_iou", 1.5), ("max_detections", 0)):
        with pytest.raises(ValueError, match=name):
            EvaluationSettings(**{name: value})


# Against pycocotools


def random_set(seed):
    """COCO ground truth and results, with crowds, areas of their own and false classes; and the same as ours."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(1, 5))
    gt = {"images": [], "annotations": [], "categories": [{"id": k, "name": f"c{k}"} for k in range(num_classes)]}
    results, ours = [], []
    scores = iter((rng.permutation(5000) / 5000).tolist())  # all different: ties are broken by each tool's own order
    for number in range(1, int(rng.integers(2, 8))):
        count = int(rng.integers(0, 130 if seed % 20 == 0 else 9))
        low, size = rng.uniform(0, 300, (count, 2)), rng.uniform(5, 150, (count, 2))
        boxes, classes = np.concatenate([low, low + size], axis=1), rng.integers(0, num_classes, count)
        crowd, areas = rng.random(count) < 0.15, size.prod(1) * rng.uniform(0.5, 1, count)
        copies = int(rng.integers(0, 260 if seed % 20 == 0 else 12)) if count else 0
        source = rng.integers(0, max(count, 1), copies)
        found = boxes[source] + rng.normal(0, 8, (copies, 4))
        found = np.concatenate(
            [np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], axis=1
        )
        labels = np.where(rng.random(copies) < 0.2, rng.integers(0, num_classes, copies), classes[source])
        values = [next(scores) for _ in range(copies)]
        gt["images"].append({"id": number, "width": 500, "height": 500})
        for k in range(count):
            box = [*boxes[k, :2].tolist(), *(boxes[k, 2:] - boxes[k, :2]).tolist()]
            item = {"id": len(gt["annotations"]) + 1, "image_id": number, "category_id": int(classes[k]), "bbox": box}
            gt["annotations"].append(item | {"area": float(areas[k]), "iscrowd": int(crowd[k])})
        for k in range(copies):
            box = [*found[k, :2].tolist(), *(found[k, 2:] - found[k, :2]).tolist()]
            item = {"image_id": number, "category_id": int(labels[k]), "bbox": box, "score": values[k]}
            results.append(item)
        names, gt_names = [f"c{k}" for k in labels], [f"c{k}" for k in classes]
        ours.append(ImageDetections(found, names, values, boxes, gt_names, crowd, areas))
    return gt, results, ours


NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NAMES += ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_ap_and_ar_are_those_of_pycocotools(start):
    compared = 0
    for seed in range(start, start + 20):
        gt, results, ours = random_set(seed)
        if not results:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = gt
            truth.createIndex()
            reference = COCOeval(truth, truth.loadRes(results), "bbox")
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        found = evaluate(ours).metrics
        values = [-1 if found[name] is None else found[name] for name in NAMES]
        assert values == pytest.approx(reference.stats.tolist(), abs=1e-6), seed
        compared += 1
    assert compared >= 18


# Federated AP, computed by hand


def test_federated_ap_leaves_out_what_nobody_looked_for():
    truths = [("cat", A)]
    known = [("cat", A, 0.5), ("cat", FAR, 0.9)]
    assert metrics(image(known, truths, absent=[]))["ap50"] == 0.5
    # The same false positive before it, of which nobody knows, is ignored
    assert metrics(image(known, truths, absent=[], incomplete=["cat"]))["ap50"] == 1
    second = image([("cat", FAR, 0.9)], [("dog", B)], absent=[])
    assert metrics(image([("cat", A, 0.5)], truths, absent=[]), second)["ap50"] == 0.5  # cat 1, dog 0
    absent = replace(second, absent=["cat"])
    assert metrics(image([("cat", A, 0.5)], truths, absent=[]), absent)["ap50"] == 0.25  # cat 1/2, dog 0


def test_federated_ap_limits_the_detections_of_an_image_over_all_classes():
    found = [("dog", FAR, 0.9), ("cat", A, 0.5)]
    assert metrics(image(found, [("cat", A)], absent=["dog"]), max_detections=2)["ap"] == 1
    assert metrics(image(found, [("cat", A)], absent=["dog"]), max_detections=1)["ap"] == 0
    assert metrics(image(found, [("cat", A)]), max_detections=1)["ap"] == 1


def test_ap_by_frequency():
    images = [image([("cat", A, 0.9), ("dog", FAR, 0.8)], [("cat", A), ("dog", B)], absent=[])]
    found = evaluate(images, frequencies={"cat": "r", "dog": "f"}).metrics
    assert (found["ap_rare"], found["ap_common"], found["ap_frequent"]) == (1, None, 0)


# Order


def test_the_order_of_predictions_truths_and_images_changes_no_number():
    _, _, ours = random_set(7)
    expected = evaluate(ours)

    def shuffled(item, rng):
        pred, gt = list(range(len(item.descs))), list(range(len(item.gt_descs)))
        rng.shuffle(pred)
        rng.shuffle(gt)
        return ImageDetections(
            item.boxes[pred],
            [item.descs[k] for k in pred],
            [item.scores[k] for k in pred],
            item.gt_boxes[gt],
            [item.gt_descs[k] for k in gt],
            item.gt_crowd[gt],
            item.gt_areas[gt],
        )

    for seed in range(3):
        found = evaluate([shuffled(item, random.Random(seed)) for item in ours])
        assert found.metrics == pytest.approx(expected.metrics)
        assert found.classes == expected.classes and found.confusions == expected.confusions
    assert evaluate(ours[::-1]).metrics == pytest.approx(expected.metrics)


# AP under constant scores


def ap_of_order(item, order, threshold):
    """AP at one threshold of one image whose predictions are ranked in an order, as COCO computes it."""
    ranked = replace(item, scores=[1.0 - order.index(k) / 100 for k in range(len(item.descs))])
    return precision_curves([Comparison(ranked)], areas=ANY_AREA).ap(threshold)


@pytest.mark.parametrize("seed", range(8))
def test_every_order_lies_in_the_interval(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    low = rng.uniform(0, 30, (count, 2))
    truths = np.concatenate([low, low + rng.uniform(15, 30, (count, 2))], axis=1)
    boxes = truths[rng.integers(0, count, 5)] + rng.normal(0, 3, (5, 4)) + (rng.random((5, 1)) < 0.3) * 100
    item = ImageDetections(boxes, ["cat"] * 5, None, truths, ["cat"] * count)
    for threshold in (0.5, 0.75):
        low, high = constant_score_interval([Comparison(item)], iou_thresholds=[threshold])
        values = [ap_of_order(item, order, threshold) for order in itertools.permutations(range(5))]
        assert low - 1e-9 <= min(values) and max(values) == pytest.approx(high)


@pytest.mark.parametrize(
    ("true", "false", "objects", "expected"),
    [
        (1, 1, 1, (0.5, 1)),
        (50, 50, 60, (84 / 101 / 2, 84 / 101)),  # .416 and .832
        (3, 0, 3, (1, 1)),
        (0, 4, 2, (0, 0)),
    ],
)
def test_intervals_by_hand(true, false, objects, expected):
    def places(row, count):
        return [(20.0 * k, row, 20.0 * k + 10, row + 10) for k in range(count)]

    item = image(
        [("cat", box) for box in [*places(0, true), *places(100, false)]], [("cat", box) for box in places(0, objects)]
    )
    found = metrics(item)
    assert (found["ap_constant_min"], found["ap_constant_max"]) == pytest.approx(expected)


def test_copies_of_one_object_cannot_come_before_it():
    found = metrics(image([("cat", A)] * 4, [("cat", A)]))
    assert found["ap_constant_min"] == found["ap_constant_max"] == 1

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Every figure in metrics.json is described, and every figure described is there."""

from coordexp_trl.evaluation.evaluate import FREQUENCIES, evaluate
from coordexp_trl.evaluation.metrics import RESULTS
from coordexp_trl.evaluation.samples import ImageDetections


def test_figures_in_metrics_json_are_described():
    box = (0, 0, 10, 10)
    image = ImageDetections([box, box], ["cat", "dog"], [0.9, 0.8], [box, box], ["cat", "dog"])
    found = evaluate([image], frequencies={"cat": next(iter(FREQUENCIES))}).metrics
    described = [name for names in RESULTS for name in names.split(", ")]
    assert len(described) == len(set(described))
    assert set(described) == set(found)
    assert all(metric.unit and metric.meaning.endswith(".") for metric in RESULTS.values())

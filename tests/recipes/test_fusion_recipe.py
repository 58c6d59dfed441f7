# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Both recipes on a fusion of real photographs: blood cells and everyday scenes, with figures for each."""

import json
import re

import pytest
import yaml
from running import RECIPES, main_of, options, steps_of

from coordexp_trl.datasets.coco import convert_coco
from coordexp_trl.datasets.fusion import read_fusion
from coordexp_trl.datasets.voc import convert_voc

COUNTS = {"train": 6, "val": 3}


@pytest.fixture(scope="module")
def fusion(shared_data, tmp_path_factory):
    """A fusion of the first photographs of both sets, of which COCO's are trained on half as often."""
    folder = tmp_path_factory.mktemp("fusion")
    cells, scenes = shared_data / "bccd", shared_data / "coco_permissive"
    for split, count in COUNTS.items():
        lists = cells / "ImageSets" / "Main" / f"{split}.txt"
        convert_voc(cells / "Annotations", cells / "JPEGImages", folder / f"cells_{split}.jsonl", lists)
        annotations = scenes / f"instances_{split}2017.json"
        convert_coco(annotations, scenes / "images" / f"{split}2017", folder / f"coco_{split}.jsonl")
        for name in ("cells", "coco"):
            file = folder / f"{name}_{split}.jsonl"
            lines = sorted(file.read_text().splitlines(), key=lambda line: len(json.loads(line)["objects"]))
            file.write_text("\n".join(lines[-4 * count :: 4]))
    sources = [
        {"name": "cells", "train_jsonl": "cells_train.jsonl", "val_jsonl": "cells_val.jsonl", "ratio": 1.5},
        {"name": "coco", "train_jsonl": "coco_train.jsonl", "val_jsonl": "coco_val.jsonl", "ratio": 0.5},
    ]
    sources[0]["prompt"] = "Detect the blood cells."
    (folder / "fusion.yaml").write_text(yaml.safe_dump({"datasets": sources}))
    return folder / "fusion.yaml"


def run(work, stage, fusion, folder, **changes) -> list[str]:
    """Arguments of three steps on small pictures."""
    values = {
        "train_file": fusion,
        "eval_file": fusion,
        "output_dir": folder,
        "max_steps": 3,
        "max_pixels": 96 * 96,
        "max_completion_length": 24,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 3,
        "num_overlays": 4,
        "check_images": "true",
        **({"steps_per_generation": 1} if stage == 2 else {}),
    }
    return options(work, stage, **(values | changes))


@pytest.mark.shared_data
@pytest.mark.parametrize("stage", [1, 2])
def test_real_photographs_are_trained_on_and_evaluated_by_source(stage, work, fusion, tmp_path, monkeypatch, capsys):
    main_of(stage, run(work, stage, fusion, tmp_path / "run"), monkeypatch)()
    printed = capsys.readouterr().out
    steps = steps_of(tmp_path / "run")
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(entry["time/data"] >= 0 for entry in steps)
    assert steps[-1]["epoch"] == pytest.approx(3 * 4 / 12)  # 9 of cells and 3 of coco an epoch
    for metrics in json.loads((tmp_path / "run" / "result.json").read_text()).values():
        for name in ("f1", "ap"):
            for prefix in ("eval_", "eval_cells_", "eval_coco_"):
                assert 0 <= metrics[f"{prefix}{name}"] <= 1
        of_each = [metrics[f"eval_{name}_objects_ground_truth"] for name in ("cells", "coco")]
        assert min(of_each) > 1 and metrics["eval_objects_ground_truth"] == pytest.approx(sum(of_each) / 2)
    for row in ("F1@.5, cells", "F1@.5, coco"):
        assert row in printed
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "F1@.5, cells" in report and report.count("<img") == 1 + 2 * 4
    assert len(set(re.findall("BloodImage_[0-9]+.jpg, after training", report))) == 2  # of each source in turn


@pytest.mark.shared_data
def test_the_plan_lists_the_sources(work, fusion, tmp_path, monkeypatch, capsys):
    main_of(1, [*run(work, 1, fusion, tmp_path / "run"), "--dry_run"], monkeypatch)()
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^ *(\S.*?) {2,}(\S.*?) *$", printed, flags=re.MULTILINE))
    assert rows["training images"] == "12" and rows["images an epoch"] == "12"
    assert rows["of cells"] == "9 of 6 an epoch" and rows["of coco"] == "3 of 6 an epoch"
    assert rows["optimizer steps"] == "3 (1.0 epochs)"


def test_the_example_file_is_understood():
    sources = read_fusion(RECIPES / "fusion_example.yaml")
    assert [source.name for source in sources] == ["coco", "cells"]

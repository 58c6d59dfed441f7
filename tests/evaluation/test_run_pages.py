# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.evaluation.run_pages and run_tables."""

import json

import pytest
from html_page import Page
from run_folders import images, metrics, write_evaluation, write_training

from coordexp_trl.evaluation.run_pages import write_run_report
from coordexp_trl.evaluation.run_tables import evaluation_tables


@pytest.fixture
def report(tmp_path):
    """Writes the report of a folder and returns it parsed."""

    def write(folder, **options):
        return Page(write_run_report(folder, tmp_path / "out" / "report.html", show_progress=False, **options).path)

    return write


def table(evaluation, title, classes=()):
    return next((item for item in evaluation_tables(evaluation, classes) if item.title == title), None)


def test_a_page_with_everything(tmp_path, report):
    folder = write_training(write_evaluation(tmp_path / "night run"))
    (folder / "run.json").write_text(json.dumps({"model": "qwen", "data": "val.jsonl", "engine": "vllm", "seed": 3}))
    page = report(folder, image_root=folder / "images")
    assert page.texts("h1") == ["Report: night run"]
    assert page.texts("h2") == [
        *("Results", "By IoU threshold", "By size of object", "By class", "Confused descriptions"),
        *("Reliability of the scores", "Training: evaluation", "Training: losses", "Training: curves", "Images"),
    ]
    assert len(page.pictures()) == 1 + 2 + 2 * 3  # the diagram, curves of losses and detection, and the images
    assert "Model: qwen\nData: val.jsonl\n1 of 3 completions were cut at the length limit." in page.texts("p")[0]
    assert [text.partition(":")[0] for text in page.texts("figcaption")[1:]] == ["c.png", "sub/b.png", "a.png"]
    assert "20 optimizer steps." in page.texts("p")
    details = dict(zip(page.texts("summary"), page.texts("pre"), strict=True))
    assert "iou_threshold: 0.5" in details["Protocol of the evaluation"]
    assert "engine: vllm" in details["Settings of the inference"] and "ap: 0.3125" in details["All metrics"]
    assert "unknown classes: 0" in details["Counts and treatments"]
    assert any("inverted boxes: 2" in text and "unknown" not in text for text in page.texts("p"))
    assert not [word for word in ("://", "url(", "<script") if word in page.source]


def test_a_page_of_an_evaluation_alone(tmp_path, report):
    page = report(write_evaluation(tmp_path / "run"), max_images=1)
    assert not [title for title in page.texts("h2") if title.startswith("Training")]
    assert any("1 of 3 images." in text and "1 image files could not be read" in text for text in page.texts("p"))
    assert len(page.pictures()) == 1 + 2


def test_a_page_of_a_training_run_alone(tmp_path, report):
    page = report(write_training(tmp_path / "run"))
    assert page.texts("h2") == ["Training: evaluation", "Training: losses", "Training: curves"]
    rows = page.texts("td")
    assert rows[:2] == ["0.125", "0.375"] and rows[-2:] == ["3", "1"]


def test_no_images_no_gallery_no_scores_no_diagram(tmp_path, report):
    content = metrics() | {"reliability": [], "ece": None, "confusions": [], "by_size": []}
    page = report(write_evaluation(tmp_path / "run", content=content), max_images=0)
    assert page.texts("h2") == ["Results", "By IoU threshold", "By class"] and page.pictures() == []


def test_headline_leaves_out_what_was_not_measured():
    results = table(metrics(), "Results")
    assert [row[:2] for row in results.rows] == [
        *(("F1 at IoU .5", 0.4), ("F1 at IoU .75", 0.4), ("precision at IoU .5", 0.4)),
        *(("recall at IoU .5", 0.4), ("AP", 0.3125)),
        *(("images", 3), ("ground truth", 5), ("predictions", 5)),
    ]
    constant = {"metrics": {"ap_constant_min": 0.25, "ap_constant_max": 0.5}}
    assert [row[1] for row in table(constant, "Results").rows] == [0.25, 0.5]


def test_classes_with_most_objects_come_first_and_many_are_cut():
    rows = [{"class": f"c{k:02}", "gt": k // 2, "precision": None} for k in range(60)]
    by_class = table(metrics(), "By class", rows)
    assert by_class.headers == ["class", "objects"]  # columns without values are left out
    assert [row[0] for row in by_class.rows[:4]] == ["c58", "c59", "c56", "c57"]
    assert len(by_class.rows) == 50 and "10 more are in per_class.csv" in by_class.note


def test_ignored_objects_are_in_the_legend(tmp_path, report):
    lines = images()
    assert "ignored" not in " ".join(report(write_evaluation(tmp_path / "run")).texts("li"))
    lines[0]["ground_truth"][0]["status"] = "ignored"
    assert "ignored" in " ".join(report(write_evaluation(tmp_path / "run", lines)).texts("li"))


def test_the_same_run_gives_the_same_file(tmp_path, report):
    folder = write_training(write_evaluation(tmp_path / "run"))
    first = report(folder, image_root=folder / "images", num_workers=1).source
    assert report(folder, image_root=folder / "images", num_workers=2).source == first


def test_an_error_leaves_no_file(tmp_path, report):
    folder = write_evaluation(tmp_path / "run")
    for options, message in (
        ({"sort": "x"}, "sort = 'x'"),
        ({"image_root": tmp_path / "no"}, "image_root = .*no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            report(folder, **options)
    assert not (tmp_path / "out").exists()

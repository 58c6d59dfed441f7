# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.runner: whole runs, and runs that are cut short."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CONFIG, IMAGE_IDS
from PIL import Image

from coordexp_trl import cli
from coordexp_trl.generation import VLLMConfig
from coordexp_trl.inference import run_inference, runner
from coordexp_trl.journal import lock_folder
from coordexp_trl.predictions import read_predictions

ROOT = Path(__file__).resolve().parents[2]
FILES = ["predictions.jsonl", "predictions_coco.json", "predictions_coco_ids.json", "run.json"]
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
DEADLINE = 240  # seconds; a quiet machine needs about 15


@pytest.fixture
def run(detector, data, tmp_path):
    """Runs inference on the pictures, one in a batch, unless told otherwise."""

    def start(out="out", source=data, config=CONFIG, **options):
        defaults = {"device": "cpu", "batch_size": 1, "show_progress": False}
        return run_inference(detector, source, tmp_path / out, config=config, **(defaults | options))

    return start


def command(detector, data, out) -> list[str]:
    """The arguments of `coordexp` for the same run."""
    options = {"prompt": CONFIG.prompt, "max-completion-length": CONFIG.max_completion_length, "dtype": CONFIG.dtype}
    options |= {"model": detector, "data": data, "out": out, "device": "cpu", "batch-size": 1}
    return ["infer", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def journal_lines(out: Path) -> int:
    return sum(path.read_text().count("\n") for path in out.glob(".infer*.jsonl"))


def test_a_run_leaves_its_files(run, data, tmp_path, detector, predictor, pictures):
    summary = run()
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == FILES
    predictions = read_predictions(out / "predictions.jsonl")
    assert [item.image for item in predictions] == [f"images/{k}.png" for k in range(6)]  # in data order
    assert [item.image_id for item in predictions] == list(IMAGE_IDS)
    for prediction, expected in zip(predictions, predictor.predict(pictures), strict=True):
        assert prediction.text == expected.text
        assert [item.bbox_2d for item in prediction.objects] == [item.bbox_2d for item in expected.objects]
    content = json.loads((out / "run.json").read_text())
    assert (content["images"], content["objects"]) == (summary.images, summary.objects)
    assert summary.images == 6 and summary.objects == sum(len(item.objects) for item in predictions) > 6
    assert summary.cut == 6 and content["dropped"] == dict(summary.dropped)
    assert content["model"] == str(detector) and content["engine"] == "transformers" and content["world_size"] == 1
    assert content["settings"]["max_completion_length"] == 48 and content["versions"]["torch"]
    assert content["prompt"] == "Detect." and content["images_per_second"] > 0
    results = json.loads((out / "predictions_coco.json").read_text())
    ids = json.loads((out / "predictions_coco_ids.json").read_text())
    assert ids["images"] == {f"images/{k}.png": number for k, number in enumerate(IMAGE_IDS)}
    assert [row["image_id"] for row in results] == [item.image_id for item in predictions for _ in item.objects]
    assert [row["score"] for row in results] == [found.score for item in predictions for found in item.objects]


def test_a_finished_run_does_nothing(run, tmp_path, monkeypatch):
    first = run(limit=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(runner, "Predictor", None)  # is not needed
    again = run(limit=2)
    assert again.already_finished and (again.images, again.objects) == (first.images, first.objects)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_other_settings_need_overwrite(run, data):
    run(limit=2)
    with pytest.raises(ValueError, match=r"holds a run with limit = 2, now it is 1.*--overwrite"):
        run(limit=1)
    with pytest.raises(ValueError, match=r"holds a run with max_completion_length = 48, now it is 8"):
        run(limit=2, config=replace(CONFIG, max_completion_length=8))
    assert run(limit=2, batch_size=2, num_workers=1).already_finished  # how fast is no setting
    assert run(limit=1, overwrite=True).images == 1
    data.write_text(data.read_text() + "\n")
    with pytest.raises(ValueError, match=r"holds a run with data = "):
        run(limit=1)


def test_foreign_predictions_are_kept(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="has a predictions.jsonl but no run.json"):
        run(limit=1)
    assert (tmp_path / "out" / "predictions.jsonl").read_text() == "mine"
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is not of `coordexp infer`"):
        run(limit=1)


def test_two_runs_at_a_time(run, tmp_path):
    lock = lock_folder(tmp_path / "out")
    with pytest.raises(ValueError, match="another run writes into this folder"):
        run(limit=1)
    os.close(lock)
    run(limit=1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_interrupted_run_goes_on(run, tmp_path, monkeypatch, temperature):
    """Interrupted after each batch in turn: nothing is repeated, and the files are those of one go."""
    config = replace(CONFIG, max_completion_length=24, temperature=temperature)
    run("whole", config=config, batch_size=2)
    seen = []
    generate = runner.Predictor.generate

    def interrupted(self, prompts, number):
        seen.append(number)
        if interrupted.left == 0:
            raise KeyboardInterrupt
        interrupted.left -= 1
        return generate(self, prompts, number)

    monkeypatch.setattr(runner.Predictor, "generate", interrupted)
    for _ in range(3):
        interrupted.left = 1
        try:
            summary = run("parts", config=config, batch_size=2)
        except KeyboardInterrupt:
            assert not (tmp_path / "parts" / "run.json").exists()
    assert seen == [0, 1, 1, 2, 2]
    assert summary.resumed == 4 and summary.images == 6
    for name in FILES[:-1]:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_torn_line_is_done_again(run, tmp_path, monkeypatch):
    run("whole")
    monkeypatch.setattr(runner, "write_results", None)  # fails after the last image
    with pytest.raises(TypeError):
        run()
    journal = tmp_path / "out" / ".infer.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    monkeypatch.undo()
    summary = run()
    assert summary.resumed == 5
    assert (tmp_path / "out" / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()


def test_another_batch_size_keeps_what_is_finished(run, tmp_path, monkeypatch):
    def stop(self, batch_lines):
        add(self, batch_lines)
        raise KeyboardInterrupt

    add = runner.RunJournal.add
    monkeypatch.setattr(runner.RunJournal, "add", lambda self, lines: stop(self, lines) if lines else None)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=1)
    monkeypatch.undo()
    (kept,) = [json.loads(line) for line in (tmp_path / "out" / ".infer.jsonl").read_text().splitlines()[1:]]
    assert run(batch_size=4).resumed == 1
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 6 and json.loads(lines[kept["index"]]) == kept["prediction"]


def test_a_damaged_image_stops_the_run_and_loses_nothing(run, data, tmp_path):
    damaged = data.parent / "images" / "2.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-200])
    with pytest.raises(ValueError, match=r"(?s)data.jsonl:3: images\[0\] = .*2.png.*cannot be decoded.*are kept"):
        run()
    finished = journal_lines(tmp_path / "out") - 1
    assert finished >= 1
    damaged.write_bytes(whole)
    summary = run()
    assert (summary.resumed, summary.images, summary.skipped) == (finished, 6, [])


def test_damaged_images_are_skipped_and_counted(run, data, tmp_path):
    (data.parent / "images" / "2.png").write_bytes(b"nothing")
    (data.parent / "images" / "4.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)1 of 6 images cannot be used:.*4.png': no such file"):
        run()  # before anything is loaded
    assert not (tmp_path / "out").exists()
    summary = run(skip_bad_images=True, batch_size=4)
    assert [item["image"] for item in summary.skipped] == ["images/2.png", "images/4.png"]
    assert [item.image for item in read_predictions(tmp_path / "out" / "predictions.jsonl")] == [
        f"images/{k}.png" for k in (0, 1, 3, 5)
    ]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["skipped"] == summary.skipped


def test_every_image_may_be_bad(run, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"nothing")
    summary = run(source=tmp_path / "bad", skip_bad_images=True)
    assert (summary.images, len(summary.skipped)) == (0, 1)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "out" / "predictions_coco.json").read_text()) == []


def test_a_folder_and_ids_of_a_coco_file(run, data, tmp_path):
    source = shutil.copytree(data.parent / "images", tmp_path / "pictures")
    names = json.dumps(
        {"categories": [{"id": 9, "name": "white square"}], "images": [{"id": 5, "file_name": "0.png"}]}
    )
    (tmp_path / "coco.json").write_text(names)
    run(source=source, limit=2)
    assert read_predictions(tmp_path / "out" / "predictions.jsonl")[0].image == "0.png"
    # Other ids need no new predictions
    assert run(source=source, limit=2, categories=tmp_path / "coco.json").already_finished
    results = json.loads((tmp_path / "out" / "predictions_coco.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in results} <= {(5, 9)}
    assert json.loads((tmp_path / "out" / "predictions_coco_ids.json").read_text())["categories"] == {
        "white square": 9
    }


def test_beams_are_noted(run):
    summary = run(limit=1, config=replace(CONFIG, num_beams=2))
    assert summary.notes == {"COCO results with score 1.0: the model gave none": summary.objects}


def test_files_that_are_no_images_of_their_record(run, data):
    Image.new("RGB", (5, 5)).save(data.parent / "images" / "0.png")
    with pytest.raises(ValueError, match="the image is 5 x 5 pixels, but the record says 96 x 64"):
        run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"categories": "missing.json"}, "missing.json"),
        ({"vllm": VLLMConfig(use_vllm=True), "config": replace(CONFIG, num_beams=2)}, "num_beams=2|needs vLLM"),
        ({"adapter": "missing"}, "has no adapter_config.json"),
        ({"source": "missing"}, "no such file or folder"),
    ],
)
def test_options_that_cannot_be(run, tmp_path, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(**options)
    assert not (tmp_path / "out").exists()


def test_killed_and_started_again(run, detector, data, tmp_path):
    """A real SIGKILL: the file afterwards is that of a run without one."""
    run("whole")
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "coordexp_trl.cli", *command(detector, data, out)]
    process = subprocess.Popen(arguments, env=os.environ | ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE
    while journal_lines(out) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = journal_lines(out) - 1
    assert 2 <= finished < 6 and not (out / "run.json").exists()
    summary = run()
    assert summary.resumed >= 2 and summary.images == 6
    assert sorted(path.name for path in out.iterdir()) == FILES
    for name in FILES[:-1]:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes(run, detector, data, tmp_path):
    run("one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "coordexp_trl.cli", *command(detector, data, tmp_path / "two")],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("wrote ") == 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == FILES
    assert json.loads((tmp_path / "two" / "run.json").read_text())["world_size"] == 2
    for name in FILES[:-1]:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_the_command(detector, data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*command(detector, data, out), "--limit", "2"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "images per second" in printed and f"wrote {out}/predictions.jsonl" in printed.replace("\n", "")
    assert cli.main(arguments) == 0
    assert "finished before with these settings, 2 images" in capsys.readouterr().out
    assert cli.main([*arguments, "--top_k", "3"]) == 2
    assert "holds a run with top_k = 0, now it is 3" in capsys.readouterr().err
    assert cli.main([*arguments, "--classes", "cat,cat"]) == 2
    assert "are the same class" in capsys.readouterr().err

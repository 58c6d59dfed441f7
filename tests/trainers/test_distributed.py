# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Two real processes over gloo: the same numbers as one process, and no process left waiting for another."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scripts.two_processes import SCENARIOS
from toys import read_events, relative_difference

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "scripts" / "two_processes.py"
DEADLINE = 240  # seconds; all scenarios together take well under a minute
STEPS = [
    "two_sequence",
    "appended",
    "expert_checkpointing",
    "frozen_tower",
    "adapters",
    "adapters_checkpointing",
    "garbage",
    "garbage_geometry",
    "stage1",
    "stage1_incomplete",
    "stage1_frozen",
    "stage1_adapters",
    "stage1_nothing",
    "stage1_plain",
]
STAGE1 = ["stage1_broken_loss", "stage1_resumed", "stage1_fusion"]
STAGE2 = ["broken_loss", "evaluation", "resumed", "resumed_fusion", "resumed_partly", "corrupt_image"]


@dataclass
class Launch:
    """What two processes left behind: the launcher's exit code, all output, and one file a scenario and process."""

    folder: Path
    code: int
    output: str

    def __call__(self, name: str) -> list[dict]:
        """What each process returned for a scenario."""
        files = [self.folder / f"{name}_{rank}.pt" for rank in range(2)]
        assert all(file.is_file() for file in files), self.output[-8000:]
        return [torch.load(file, weights_only=False) for file in files]


@pytest.fixture(scope="module")
def results(checkpoint, records, tmp_path_factory) -> Launch:
    """All scenarios in one launch of two processes; the last one ends it with an error."""
    source = Path(records[0].source.rsplit(":", 1)[0])
    folder = tmp_path_factory.mktemp("two_processes")
    file = Path(shutil.copytree(source.parent, folder / "shapes"), source.name)
    names = [*STEPS, *STAGE1, *STAGE2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*launcher, str(SCRIPT), str(checkpoint), str(file), str(folder), *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
    )
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher stops its processes
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"The processes did not end within {DEADLINE} s:\n{output[-8000:]}")
    return Launch(folder, process.returncode, output)


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_take_the_step_of_one(checkpoint, records, results, tmp_path, name):
    expected = SCENARIOS[name](checkpoint, records, tmp_path, 1)
    first, second = results(name)
    assert first["parameters"].keys() == second["parameters"].keys()
    for parameter, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][parameter]), parameter
    assert relative_difference(first["parameters"], expected["parameters"], expected["start"]) < 1e-5
    assert len(first["logs"]) == len(expected["logs"]) > 0
    for actual, wanted in zip(first["logs"], expected["logs"], strict=True):
        assert actual.keys() == wanted.keys()
        for metric in wanted:
            assert actual[metric] == pytest.approx(wanted[metric], rel=1e-5), metric


def test_what_cannot_be_parsed_was_met_by_one_process_only(results):
    for name in ("garbage", "garbage_geometry"):
        (entry,) = results(name)[0]["logs"]
        assert entry["rollout/parse_rate"] == 0.5
        assert entry["loss/bbox_l1"] > 0


@pytest.mark.parametrize("name", ["broken_loss", "stage1_broken_loss"])
def test_a_broken_loss_on_one_process_stops_both_before_the_optimizer_step(
    checkpoint, records, results, tmp_path, name
):
    first, second = results(name)
    alone = SCENARIOS[name](checkpoint, records, tmp_path, 1)
    assert "not finite at step 2 ({'loss/coord_ce': nan})" in first["message"]
    assert first["message"] == second["message"] == alone["message"]
    for result in (first, second, alone):
        assert [entry["step"] for entry in result["logs"]] == [1]
        assert all(torch.equal(result["start"][name], value) for name, value in result["parameters"].items())


def test_repeated_records_of_the_last_batches_count_once(checkpoint, records, results, tmp_path):
    expected = SCENARIOS["evaluation"](checkpoint, records, tmp_path, 1)
    assert expected["eval_five_objects_ground_truth"] == 8 / 5  # 2, 2, 1, 1 and 2 objects
    assert expected["eval_one_objects_ground_truth"] == 3
    for metrics in results("evaluation"):
        assert metrics.keys() == expected.keys()
        assert metrics == pytest.approx(expected, rel=1e-12)
    # One process draws what both have found
    alone, together = read_events(tmp_path), read_events(results.folder / "evaluation")
    assert len(alone.Tags()["images"]) == 6
    for name in alone.Tags()["images"]:
        (one,), (two,) = alone.Images(name), together.Images(name)
        assert one.encoded_image_string == two.encoded_image_string


@pytest.mark.parametrize("name", ["resumed", "resumed_fusion"])
def test_a_resumed_run_of_two_processes_continues_exactly(results, name):
    for result in results(name):
        assert result["last"] == 8
        assert result["generations"] == 0  # both use their own buffered rollouts
        assert result["expected"] == result["actual"] and result["actual"]
        for name, value in result["weights"].items():
            assert torch.equal(value, result["resumed_weights"][name]), name


@pytest.mark.parametrize("name", ["stage1_resumed", "stage1_fusion"])
def test_two_processes_whose_random_states_differ_share_each_epoch_and_resume_it(results, records, name):
    first, second = results(name)
    for epoch in range(2):
        served = [result["served"][4 * epoch : 4 * epoch + 4] for result in (first, second)]
        expected = list(range(len(records))) if name == "stage1_resumed" else first["drawn"][epoch]
        assert sorted(sum(served, [])) == expected
    for result in (first, second):
        assert result["actual"] and len(result["actual"]) == len(result["expected"])
        for actual, expected in zip(result["actual"], result["expected"], strict=True):
            assert actual | {"num_tokens": 0} == expected | {"num_tokens": 0}  # counted from a process's beginning
        assert all(torch.equal(value, result["resumed_weights"][name]) for name, value in result["weights"].items())


def test_both_processes_generate_anew_when_one_lost_its_rollouts(results):
    assert [result["generations"] for result in results("resumed_partly")] == [1, 1]


def test_an_error_of_one_process_ends_the_run(results):
    assert results.code != 0
    assert "shapes.jsonl:5: images[0]" in results.output and "cannot be decoded" in results.output

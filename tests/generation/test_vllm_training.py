# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Stage-2 with vLLM's rollouts is Stage-2 with those of transformers; a server that dies ends it in time."""

import pytest
import torch
from vllm_processes import run_script

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.tiny import DETECTOR_SCENES

pytestmark = pytest.mark.vllm

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
OWN_TO_VLLM = "rollout/parity"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return create_shapes(tmp_path_factory.mktemp("shapes") / "shapes", 8, seed=5, **DETECTOR_SCENES)


@pytest.fixture(scope="module")
def train(shapes, tmp_path_factory):
    """Runs a mode; returns what its processes wrote."""

    def run(mode, checkpoint, *server, launcher=(), deadline=240):
        folder = tmp_path_factory.mktemp(mode)
        run_script("vllm_training.py", mode, checkpoint, shapes, folder, *server, deadline=deadline, launcher=launcher)
        return [torch.load(file, weights_only=False) for file in sorted(folder.glob(f"{mode}_*.pt"))]

    return run


@pytest.fixture(scope="module")
def by_transformers(train, detector):
    return train("transformers", detector)[0]


def assert_equal_runs(actual, expected):
    assert len(actual["logs"]) == len(expected["logs"]) == 3
    for ours, theirs in zip(actual["logs"], expected["logs"], strict=True):
        assert ours["rollout/parity_bins"] == 0 and ours["rollout/parity_agreement"] == 1
        ours = {name: value for name, value in ours.items() if not name.startswith(OWN_TO_VLLM)}
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    for name in ("eval_f1", "eval_ap", "eval_mean_length"):
        assert actual["evaluation"][name] == pytest.approx(expected["evaluation"][name], abs=1e-4)


def test_colocated_rollouts_give_the_same_run(train, by_transformers, detector):
    assert_equal_runs(train("colocate", detector)[0], by_transformers)


def test_rollouts_by_a_server_give_the_same_run(train, untied_detector, vllm_server):
    expected = train("transformers", untied_detector)[0]
    vllm_server.wait()
    assert_equal_runs(train("server", untied_detector, vllm_server.url, vllm_server.process.pid)[0], expected)


def test_two_processes_with_a_vllm_each(train, detector):
    expected = train("transformers", detector, launcher=TORCHRUN)
    actual = train("colocate", detector, launcher=TORCHRUN)
    assert [result["processes"] for result in actual] == [2, 2]
    assert_equal_runs(actual[0], expected[0])


def test_a_server_that_dies_ends_the_run_in_time(train, untied_detector, vllm_server):
    vllm_server.wait()
    result = train("killed", untied_detector, vllm_server.url, vllm_server.process.pid)[0]
    assert vllm_server.url in result["error"] and "--resume_from_checkpoint" in result["error"]
    assert result["seconds"] < 60
    assert len(result["logs"]) == 3, "the run goes on from the checkpoint"

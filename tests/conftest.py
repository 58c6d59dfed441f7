# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Settings and fixtures of the whole test suite: no network, fixed seeds, and what is left out is said and counted."""

import os

# Read when the libraries are imported, so they are set before anything else.
os.environ.update(
    DO_NOT_TRACK="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    WANDB_MODE="disabled",
)

import importlib.util
import random
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from local_connections import local_connections_only

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "build" / "wheels"
SITE_TOOLS = [
    ROOT / ".venv-docs" / "bin" / "mkdocs",
    *(ROOT / "build" / "site_scripts" / name for name in ("mermaid.min.js", "iframe-worker.js")),
]
NOT_RUN = pytest.StashKey[dict[str, list[str]]]()

hypothesis.settings.register_profile("coordexp", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("coordexp")


def shared_data_folder() -> Path:
    """The folder named by COORDEXP_SHARED_DATA, or `../shared/data` beside the checkout."""
    return Path(os.environ.get("COORDEXP_SHARED_DATA") or ROOT.parent / "shared" / "data")


def missing_requirements() -> dict[str, str]:
    """The markers whose tests cannot run on this machine, each with the reason."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device"
    if not shared_data_folder().is_dir():
        reasons["shared_data"] = "no data folder: set COORDEXP_SHARED_DATA"
    if importlib.util.find_spec("vllm") is None:
        reasons["vllm"] = "vLLM is not installed: make install-vllm"
    if shutil.which("chromium") is None:
        reasons["chromium"] = "Chromium is not installed"
    if not any(WHEELS.glob("*.whl")):
        reasons["wheel"] = "no wheels to read: make wheels"
    if not all(path.is_file() for path in SITE_TOOLS):
        reasons["site"] = "no mkdocs, or no mermaid because there is no npm: make docs"
    return reasons


def pytest_configure(config):
    named = os.environ.get("COORDEXP_SHARED_DATA")
    if named and not Path(named).is_dir():
        raise pytest.UsageError(f"COORDEXP_SHARED_DATA={named!r} is not a folder: correct it or unset it")
    config.stash[NOT_RUN] = {}
    # The models are tiny: more threads wait for each other longer than they compute.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    missing = missing_requirements()
    kept, left_out = [], []
    for item in items:
        reasons = [f"{marker}: {reason}" for marker, reason in missing.items() if item.get_closest_marker(marker)]
        if reasons:
            config.stash[NOT_RUN].setdefault("; ".join(reasons), []).append(item.nodeid)
        (left_out if reasons else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("tests not run")
    not_run = config.stash[NOT_RUN]
    for reason, tests in not_run.items():
        terminalreporter.write_line(f"{len(tests)} not run ({reason})")
        for test in tests:
            terminalreporter.write_line(f"  {test}")
    if not not_run:
        terminalreporter.write_line("none")
    terminalreporter.section("end of tests not run")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Connections beyond this machine fail at once instead of hanging or, worse, working."""
    with local_connections_only():
        yield


@pytest.fixture(autouse=True)
def reset_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations and images; for tests marked `shared_data`."""
    return shared_data_folder()


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The folder of wheels that are read and not installed; for tests marked `wheel`."""
    return WHEELS


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A random tiny Qwen3-VL with its processor. Shared by the whole session: load it, never write into it."""
    from coordexp_trl.tiny import create_tiny_checkpoint

    return Path(create_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", seed=0))

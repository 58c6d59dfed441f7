# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks say of the machine they ran on."""

import platform
from pathlib import Path


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())

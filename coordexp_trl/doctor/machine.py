# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""GPUs, CPU, memory and disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from coordexp_trl.doctor.check import Check, ok, warn

GIB = 1 << 30
_LITTLE_MEMORY = 4 * GIB
_LITTLE_DISK = 10 * GIB  # two checkpoints of a 2B model, or one with its optimizer
_BUSY_SHARE = 0.5  # of a GPU's memory
_CGROUP = Path("/sys/fs/cgroup")


def format_bytes(size: float) -> str:
    """Returns a size in MiB or GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size * 1024 / GIB:.1f} MiB"


def check_gpus() -> Iterator[Check]:
    """What torch sees: name, memory, compute capability, bfloat16."""
    import torch

    name = "environment.gpu"
    if not torch.cuda.is_available():
        yield _without_gpu(name, torch.__version__, torch.version.cuda)
        return
    count = torch.cuda.device_count()
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found = (
            f"{index}: {properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{free / GIB:.1f} of {total / GIB:.1f} GiB free, {'bfloat16' if bf16 else 'no bfloat16'}"
        )
        if free < (1 - _BUSY_SHARE) * total:
            yield warn(name, found, "Other processes hold most of its memory: look at nvidia-smi and end them.")
        elif not bf16:
            yield warn(name, found, "Train with bf16=false (fp16=true saves memory), and serve with --dtype float16.")
        else:
            yield ok(name, found)
    if count > 1 and "WORLD_SIZE" not in os.environ:
        yield warn(
            "environment.processes",
            f"{count} GPUs are visible to one process, which the Trainer would give to nn.DataParallel",
            "Train with `accelerate launch` (one process a GPU), or show one GPU with CUDA_VISIBLE_DEVICES.",
        )


def _without_gpu(name: str, version: str, cuda: str | None) -> Check:
    if cuda is not None:
        return warn(
            name,
            f"torch {version} is built for CUDA {cuda}, but sees no GPU",
            f"Look at nvidia-smi (is the driver loaded, and new enough for CUDA {cuda}?) and at CUDA_VISIBLE_DEVICES.",
        )
    if shutil.which("nvidia-smi"):
        return warn(
            name,
            f"nvidia-smi is there, but torch {version} is a CPU build",
            "Install a build of torch and torchvision for CUDA.",
        )
    return ok(name, f"none, torch {version} computes on the CPU")


def check_memory() -> Iterator[Check]:
    """Cores and memory that this process may use."""
    import psutil

    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = (_read_number(_CGROUP / file) for file in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, max(limit - (used or 0), 0))
    found = f"{cores} CPU cores, {free / GIB:.1f} of {total / GIB:.1f} GiB of memory available"
    if free < _LITTLE_MEMORY:
        yield warn("environment.memory", found, "End other programs, or take a machine with more memory.")
    else:
        yield ok("environment.memory", found)


def _read_number(path: Path) -> int | None:
    """A number of the control group of a container; `None` if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_disk(folder: Path) -> Iterator[Check]:
    """Room for checkpoints in the working folder."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield warn("environment.disk", f"{folder} cannot be written", "Work in a folder of your own.")
    elif free < _LITTLE_DISK:
        yield warn("environment.disk", found, "Make room, or set output_dir to another disk: checkpoints are large.")
    else:
        yield ok("environment.disk", found)

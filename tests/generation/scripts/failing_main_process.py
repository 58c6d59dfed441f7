# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What each process learns of the main process's work, under torchrun.

    python failing_main_process.py FOLDER
"""

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from coordexp_trl.generation.main_process import on_main_process


class OwnError(Exception):
    """Of a class that takes two arguments, which a process cannot rebuild from one message."""

    def __init__(self, what: str, why: str):
        super().__init__(f"{what}: {why}")


def fail(error: Exception):
    def work():
        raise error

    return work


def main() -> None:
    accelerator, seen = Accelerator(cpu=True), {}
    seen["result"] = on_main_process(accelerator, lambda: [accelerator.process_index, "done"])
    for error in (ValueError("a mistake"), ConnectionError("the server died"), OwnError("vLLM", "no memory")):
        try:
            on_main_process(accelerator, fail(error))
        except Exception as told:
            seen[type(error).__name__] = [type(told).__name__, str(told)]
    seen["processes"] = accelerator.num_processes
    Path(sys.argv[1], f"{accelerator.process_index}.json").write_text(json.dumps(seen))
    accelerator.end_training()


if __name__ == "__main__":
    main()

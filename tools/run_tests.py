# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Runs the tests in two halves side by side: those of vLLM and of the docs, and all others.

What the first half prints is shown when it has ended. Arguments go to pytest; with any, there is one run.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

PYTEST = [sys.executable, "-m", "pytest", "-q", "-rs", "--durations=20"]
DOCS = "tests/docs"
BESIDE = ([*PYTEST, "-m", "vllm"], [*PYTEST, "-m", "not vllm", DOCS])
OTHERS = [*PYTEST, "-m", "not vllm", f"--ignore={DOCS}"]
NO_TESTS = 5  # pytest's status where there was nothing to run


def main(arguments: Sequence[str]) -> int:
    if arguments:
        return subprocess.run([*PYTEST, *arguments]).returncode
    # Threads of both halves that wait for each other's cores take several times as long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    runs = [f"{shlex.join(command)} || [ $? = {NO_TESTS} ] || failed=1" for command in BESIDE]
    with tempfile.TemporaryFile() as output:
        script = "; ".join([*runs, "exit ${failed:-0}"])
        beside = subprocess.Popen(["bash", "-c", script], stdout=output, stderr=output, start_new_session=True)
        try:
            status = subprocess.run(OTHERS).returncode
            other = beside.wait()
        finally:
            if beside.poll() is None:
                os.killpg(beside.pid, signal.SIGTERM)
        output.seek(0)
        print("\n=== tests of vLLM, and of the docs", flush=True)
        sys.stdout.buffer.write(output.read())
    return status or other


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

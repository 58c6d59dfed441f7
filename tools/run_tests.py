# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Runs the tests in two halves side by side: those of vLLM, which mostly wait for its processes, and all others.

What the half of vLLM prints is shown when it has ended. Arguments go to pytest; with any, there is one run.
"""

import subprocess
import sys
import tempfile

NO_TESTS = 5  # pytest's status where the half is empty


def main(arguments: list[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", "-q", "-rs"]
    if arguments:
        return subprocess.run([*pytest, *arguments]).returncode
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen([*pytest, "-m", "vllm"], stdout=output, stderr=subprocess.STDOUT)
        try:
            status = subprocess.run([*pytest, "-m", "not vllm"]).returncode
            other = beside.wait()
        finally:
            beside.terminate()
        output.seek(0)
        print("\n=== tests of vLLM", flush=True)
        sys.stdout.buffer.write(output.read())
    return status or (0 if other == NO_TESTS else other)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

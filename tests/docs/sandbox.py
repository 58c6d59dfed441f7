# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A folder in which bash runs the blocks of a page, with programs that [`command_server`] executes or checks."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from command_checks import CHECKS
from command_server import LOG, MODE, PROGRAM, SHORTER
from shell_blocks import Block

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ("cat", "cp", "diff", "grep", "head", "ls", "mkdir", "mv", "sed", "sort", "tail", "wc")
LINKED = ("benchmarks", "coordexp_trl", "recipes")

# Shown with the line of the page, which the empty lines before the code give
_REPORT = """trap 'status=$?; echo "$0:$LINENO: status $status: $BASH_COMMAND" >&2' ERR"""


@contextmanager
def serving() -> Iterator[str]:
    """Runs the server of commands; yields the address of its socket."""
    # Not a temporary folder of pytest: the address of a socket has at most 107 bytes
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        command = [sys.executable, Path(__file__).with_name("command_server.py"), address]
        # No configuration of accelerate and no cache of this user, and no GPU, which forks could not use
        hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": f"{folder}/huggingface"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **hidden}
        environment.pop("ACCELERATE_USE_CPU", None)
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert server.stdout.readline() == "ready\n", "the server of commands does not start"
            yield address
        finally:
            os.killpg(server.pid, 15)
            server.communicate()


class Sandbox:
    """
    A folder with programs, the recipes and the package.

    Args:
        folder (`Path`):
            Folder to work in.
        address (`str`):
            Of the server, see [`serving`].
        shorter (`Mapping[str, Sequence[str]]`):
            Options that are appended to commands which begin so.
        seconds (`float`, *optional*, defaults to `300`):
            Time limit of a block.
    """

    def __init__(self, folder: Path, address: str, shorter: Mapping[str, Sequence[str]], seconds: float = 300) -> None:
        self.folder, self.log, self.seconds = folder, folder / ".commands", seconds
        self.log.touch()
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name in CHECKS:
            program = programs / name
            program.write_text(PROGRAM.format(python=sys.executable, address=address))
            program.chmod(0o755)
        self.system = folder / ".system"
        self.system.mkdir()
        for name in SYSTEM:
            (self.system / name).symlink_to(shutil.which(name))
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "COORDEXP_"))},
            "CUDA_VISIBLE_DEVICES": "",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{programs}:{self.system}",
            LOG: str(self.log),
            SHORTER: json.dumps(shorter),
        }

    def run(self, page: str, block: Block) -> str | None:
        """Runs a block, or checks it if the page says that it is not run; returns what went wrong with its output."""
        code = block.code
        if block.language == "python":
            examples = ">>> " in code
            file = self.folder / f".{block.line}.{'txt' if examples else 'py'}"
            file.write_text("\n" * (block.line - 1) + code + "\n", encoding="utf-8")
            code = f"python {'-m doctest ' if examples else ''}{file.name}"
        script = "\n" * max(block.line - 2, 0) + f"{_REPORT}\n{code}"
        environment = self.environment | {MODE: "run" if block.reason is None else "check"}
        command = [shutil.which("bash"), "-Eeuo", "pipefail", "-c", script, page]
        # Not a pipe: what is started and outlives the time limit would hold it open
        with open(self.folder / ".output", "w+", encoding="utf-8", errors="replace") as output:
            try:
                done = subprocess.run(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=self.seconds,
                )
                status = f"status {done.returncode}" if done.returncode else None
            except subprocess.TimeoutExpired:
                status = f"not done after {self.seconds} seconds"
            output.seek(0)
            return status and f"{page}:{block.line}: {status}\n{output.read()[-5000:]}"

    def commands(self) -> list[list[str]]:
        """Mode, name and arguments of all that was run or checked."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]

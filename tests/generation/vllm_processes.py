# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Real vLLM in processes of its own: it changes the process that it runs in, and a server is one anyway."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "trainers"), str(ROOT / "tests" / "generation")]),
}
SERVER_DEADLINE = 240  # seconds; quiet machines need about 50


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_script(name: str, *args: object, deadline: int, launcher: tuple[str, ...] = ()) -> str:
    """Runs a script to its end, within seconds; returns its output, and fails with it unless it exits with 0."""
    command = [sys.executable, *launcher, str(SCRIPTS / name), *map(str, args)]
    run = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=deadline,
        env=os.environ | ENVIRONMENT,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    assert "Traceback" not in run.stdout, run.stdout[-8000:]  # at the end of the process it leaves the status alone
    return run.stdout


@dataclass
class Results:
    """What the scenarios of one process returned, a file each."""

    folder: Path

    def __call__(self, name: str) -> dict:
        """The result of a scenario; fails with its traceback if it has none."""
        result = torch.load(self.folder / f"{name}.pt", weights_only=False)
        assert "traceback" not in result, result["traceback"]
        return result


@dataclass
class Server:
    """`vllm serve` on this machine."""

    process: subprocess.Popen
    url: str
    log: Path

    @classmethod
    def start(cls, checkpoint: Path, folder: Path) -> "Server":
        """Returns at once; see [`wait`]."""
        port = free_port()
        options = {
            "host": "127.0.0.1",
            "port": port,
            "dtype": "float32",
            "max-model-len": 256,
            "max-num-seqs": 8,
            "limit-mm-per-prompt": json.dumps({"image": 1, "video": 0}),
            "mm-processor-kwargs": json.dumps({"do_resize": False}),
            "logprobs-mode": "raw_logprobs",
            "max-logprobs": -1,
            "weight-transfer-config": json.dumps({"backend": "gloo"}),
        }
        command = [
            Path(sys.executable).with_name("vllm"),
            "serve",
            checkpoint,
            "--enforce-eager",
            "--enable-scale-out",
        ]
        log = folder / "server.log"
        process = subprocess.Popen(
            [*map(str, command), *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT | {"VLLM_SERVER_DEV_MODE": "1"},
            start_new_session=True,
        )
        return cls(process, f"http://127.0.0.1:{port}", log)

    def wait(self) -> None:
        """Returns when the server is up."""
        deadline = time.monotonic() + SERVER_DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        raise AssertionError(f"The server did not come up:\n{self.log.read_text()[-8000:]}")

    def stop(self) -> None:
        """Ends the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 15)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
                self.process.wait(30)

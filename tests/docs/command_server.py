# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Runs the programs of the docs, each in a process of its own that begins with all libraries imported.

`python command_server.py SOCKET` imports them once, prints `ready`, and forks for each program that asks.
A program in the shell of a test is a few lines (`PROGRAM`) that send its name, arguments, folder, environment and open
files, and wait for the status. So the shell is the real one, and pipes, redirections and variables are its own.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import runpy
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from command_checks import check

# Environment of a block: whether its programs run or are only checked, the file that lists them, and JSON of the
# options that shorten them
MODE, LOG, SHORTER = "COORDEXP_DOCS_MODE", "COORDEXP_DOCS_LOG", "COORDEXP_DOCS_SHORTER"

# All others are only checked
EXECUTED = ("accelerate", "coordexp", "python")

PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    socket.send_fds(connection, [b"."], [0, 1, 2])
    request = {{"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}}
    connection.sendall(json.dumps(request).encode())
    connection.shutdown(socket.SHUT_WR)
    status = int(connection.makefile().read() or 1)
sys.exit(status if status >= 0 else 128 - status)
"""

IMPORTED = (
    "accelerate.commands.launch",
    "coordexp_trl.adapters.merge",
    "coordexp_trl.adapters.merge_check",
    "coordexp_trl.doctor.examination",
    "coordexp_trl.evaluation.result_files",
    "coordexp_trl.evaluation.run_pages",
    "coordexp_trl.inference",
    "coordexp_trl.recipe",
    "coordexp_trl.trainers.stage1_trainer",
    "coordexp_trl.trainers.stage2_trainer",
)


class Handler(socketserver.StreamRequestHandler):
    """Answers one program with its exit status."""

    def handle(self) -> None:
        _, files, _, _ = socket.recv_fds(self.request, 1, 3)
        request = json.loads(self.rfile.read())
        child = os.fork()
        if child == 0:
            for number, file in enumerate(files):
                os.dup2(file, number)
            os._exit(run(request))
        _, status = os.waitpid(child, 0)
        self.wfile.write(str(os.waitstatus_to_exitcode(status)).encode())


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Serves programs that start others side by side."""

    request_queue_size = 64


def run(request: dict) -> int:
    """Runs or checks a program in this process and returns its exit status."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    path, *arguments = request["argv"]
    # What starts further programs finds those of the sandbox
    sys.executable = str(Path(path).with_name("python"))
    sys.argv = list(request["argv"])
    with open(os.environ[LOG], "a", encoding="utf-8") as log:
        log.write(json.dumps([os.environ[MODE], Path(path).name, *arguments]) + "\n")
    try:
        if os.environ[MODE] == "check":
            status = check(Path(path).name, arguments)
        else:
            status = execute(Path(path).name, arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0


def execute(name: str, arguments: Sequence[str]) -> int | str | None:
    """Runs Python or an installed program as its console script does."""
    if name not in EXECUTED:
        return f"{name} is not run by this test: mark the block with `<!-- not run: reason -->`"
    if name == "python":
        return run_python(arguments)
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
    sys.argv += shortening(" ".join([name, *arguments]))
    if name == "accelerate" and "--num_processes 1 " not in " ".join(arguments):
        sys.argv[2:2] = ["--main_process_port", "0"]  # a free one: tests run side by side
    return entry.load()()


def run_python(arguments: Sequence[str]) -> None:
    """Runs `python SCRIPT …`, `python -m MODULE …` or `python -c CODE …`."""
    arguments = [part for part in arguments if part != "-u"] if arguments[:1] == ["-u"] else list(arguments)
    if arguments[:1] == ["-m"]:
        sys.path.insert(0, os.getcwd())
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[:1] == ["-c"]:
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "-c", "exec"), {"__name__": "__main__"})
    elif arguments and not arguments[0].startswith("-"):
        script = Path(arguments[0])
        sys.argv = [*arguments, *shortening(script.name)]
        sys.path.insert(0, str(script.resolve().parent))
        runpy.run_path(str(script), run_name="__main__")
    else:
        sys.exit(f"python {' '.join(arguments)}: the test runs scripts, -m and -c only")


def shortening(command: str) -> list[str]:
    """Options that make a command short; later options win."""
    table = json.loads(os.environ[SHORTER])
    return [option for start, options in table.items() if command.startswith(start) for option in options]


def warm_up() -> None:
    """Imports the libraries and does once what is slow the first time: loading a model and drawing a plot."""
    for name in IMPORTED:
        importlib.import_module(name)
    from matplotlib import pyplot
    from tqdm import tqdm
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from coordexp_trl.tiny import detector_path

    tqdm.monitor_interval = 0  # it would be a thread
    AutoProcessor.from_pretrained(detector_path())
    AutoModelForImageTextToText.from_pretrained(detector_path())
    figure, axes = pyplot.subplots(layout="constrained")
    axes.set_title("title")
    figure.savefig(os.devnull, format="png")
    pyplot.close(figure)
    # A fork has none of the other threads, so nothing here may start any. That includes `torch.set_num_threads`, whose
    # pool breaks in forks with several threads
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()


def main() -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from local_connections import local_connections_only

    warm_up()
    with local_connections_only(), Server(sys.argv[1], Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Worker processes: an ordered map over many small jobs. Imports nothing heavy, for every worker imports it too."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

_CHUNK = 8  # jobs sent to a worker at a time
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def resolve_num_workers(num_workers: int | None) -> int:
    """
    Returns the number of worker processes, by default the number of CPUs that this process may use.

    Raises:
        `ValueError`: if `num_workers` is below 1.
    """
    if num_workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_workers < 1:
        raise ValueError(f"num_workers = {num_workers!r}: must be at least 1, or left out for the number of CPUs.")
    return num_workers


def map_in_processes(function: Callable[[_Job], _Result], jobs: Sequence[_Job], num_workers: int) -> Iterator[_Result]:
    """
    Maps a function over jobs in worker processes and yields the results in the order of the jobs.

    Workers are spawned, so a script that calls this needs `if __name__ == "__main__":` around its own work. They end
    with their parent, however it ends. With one worker everything runs in this process.

    Args:
        function (`Callable`):
            A function of a module, from a module that is fast to import.
        jobs (`Sequence`):
            Arguments of the function, small and picklable.
        num_workers (`int`):
            Number of processes.

    Yields:
        The results, as small and picklable.

    Raises:
        `OSError`: if a worker dies. Errors of the function are raised as they are.
    """
    num_workers = min(num_workers, -(-len(jobs) // _CHUNK))
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise OSError(
                f"one of {num_workers} worker processes died; was it killed, or the memory used up? What was finished "
                "is kept: run the command again, with fewer workers if memory is short."
            ) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

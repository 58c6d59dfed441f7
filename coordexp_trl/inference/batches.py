# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Images of like size together, made ready in the background."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def plan_batches(lengths: Sequence[int], batch_size: int, skipped: Iterable[int] = ()) -> list[list[int]]:
    """
    Groups images by the length of their prompts, the longest first: what does not fit into memory shows at once.

    Args:
        lengths (`Sequence[int]`):
            Prompt tokens of each image.
        batch_size (`int`):
            Images in a batch.
        skipped (`Iterable[int]`, *optional*):
            Positions of images to leave out.

    Returns:
        `list[list[int]]`: Positions of the images of each batch.
    """
    left_out = set(skipped)
    order = sorted((k for k in range(len(lengths)) if k not in left_out), key=lambda k: (-lengths[k], k))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def in_background(function: Callable[[_Job], _Result], jobs: Iterable[_Job], ahead: int = 2) -> Iterator[_Result]:
    """
    Yields `function(job)` in the order of the jobs; one thread works `ahead` of what was asked for.

    Args:
        function (`Callable`):
            Called in a thread of its own; what it raises is raised when its turn comes.
        jobs (`Iterable`):
            Its arguments.
        ahead (`int`, *optional*, defaults to `2`):
            Results kept ready.

    Yields:
        The results.
    """
    with ThreadPoolExecutor(1) as executor:
        pending: deque = deque()
        try:
            for job in jobs:
                pending.append(executor.submit(function, job))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Work that one process does for all, and whose failure all must learn of: a rank that waits for ever hides it."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")

# Raised as they are on every process; others lose their class, which a process may not be able to unpickle
PLAIN_ERRORS = (ValueError, ConnectionError)


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """
    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator; every process must call this.
        work (`Callable`):
            Run by the main process alone.

    Returns:
        What `work` returned, on every process.

    Raises:
        `Exception`: What `work` raised, on every process.
    """
    outcome = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [work(), None]
        except Exception as error:  # raised below, everywhere
            told = error if type(error) in PLAIN_ERRORS else RuntimeError(f"{type(error).__name__}: {error}")
            told.__cause__ = error.__cause__ if told is error else error
            outcome = [None, told]
    result, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return result

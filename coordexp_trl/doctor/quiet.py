# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Keeps libraries from writing between the findings."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_output() -> Iterator[None]:
    """
    While the body runs, warnings, log messages below errors and progress bars of transformers are dropped, and what is
    printed goes to stderr.
    """
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    threshold = logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()

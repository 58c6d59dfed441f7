# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The result of a check, and how checks are run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"
_MESSAGE_LENGTH = 500


@dataclass(frozen=True)
class Check:
    """
    What one check found.

    Args:
        name (`str`):
            Name of the check, such as `"model.coordinates"`.
        status (`str`):
            `"ok"`, `"warn"` (it works, perhaps not as expected) or `"fail"` (it cannot work).
        message (`str`):
            What was found.
        remedy (`str`, *optional*):
            What to do; always there for `"warn"` and `"fail"`.
    """

    name: str
    status: str
    message: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        assert self.status == OK or self.remedy, f"{self.name}: a {self.status} needs a remedy"


def ok(name: str, message: str) -> Check:
    """Returns a check that found nothing wrong."""
    return Check(name, OK, message)


def warn(name: str, message: str, remedy: str) -> Check:
    """Returns a check that found something doubtful."""
    return Check(name, WARN, message, remedy)


def fail(name: str, message: str, remedy: str) -> Check:
    """Returns a check that found something that cannot work."""
    return Check(name, FAIL, message, remedy)


def attempt(name: str, function: Callable[..., Iterable[Check]], *args) -> Iterator[Check]:
    """
    Runs a check; if it stops with an exception, that is a failed check of its own.

    Args:
        name (`str`):
            Name of the failed check.
        function (`Callable`):
            Called with `args`; returns or yields checks.

    Yields:
        [`Check`]
    """
    try:
        yield from function(*args)
    except Exception as error:  # whatever is broken in the place that is looked at
        text = " ".join(str(error).split()) or "no message"
        if len(text) > _MESSAGE_LENGTH:
            text = text[: _MESSAGE_LENGTH - 3] + "..."
        yield fail(
            name, f"stopped with {type(error).__name__}: {text}", "Mend what it names; the other checks went on."
        )


class Step(NamedTuple):
    """
    A check that looks at something other checks have found in order.

    Args:
        name (`str`):
            Name of its checks.
        needs (`Sequence[str]`):
            Steps without which it cannot be done.
        function (`Callable`):
            The check, see [`attempt`].
    """

    name: str
    needs: Sequence[str]
    function: Callable[..., Iterable[Check]]


def run_steps(steps: Sequence[Step], skipped: str, *args) -> Iterator[Check]:
    """
    Runs checks that build on each other. One whose needs failed, or could not be done, is not done.

    Args:
        steps (`Sequence[Step]`):
            The checks, in an order in which needs come first.
        skipped (`str`):
            Name of the check that names those that were not done.
        args:
            Passed to each check.

    Yields:
        [`Check`]
    """
    failed, missed = set(), []
    for step in steps:
        if failed.intersection(step.needs):
            failed.add(step.name)
            missed.append(step.name)
            continue
        for check in attempt(step.name, step.function, *args):
            if check.status == FAIL:
                failed.add(step.name)
            yield check
    if missed:
        yield warn(skipped, f"not checked: {', '.join(missed)}", "Mend what failed above and run it again.")


def listed(items: Iterable[object], limit: int = 3) -> str:
    """Returns the first items separated by semicolons, and how many more there are."""
    items = [str(item) for item in items]
    more = f"; and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more

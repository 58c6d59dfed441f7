# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""How checks are run: a crash is a finding, and what builds on something broken is left out."""

import pytest

from coordexp_trl.doctor.check import Check, Step, attempt, fail, listed, ok, run_steps, warn


def crash(*args):
    yield ok("first", "fine")
    raise RuntimeError("two\nlines")


def test_a_crash_is_a_finding():
    first, second = attempt("name", crash)
    assert first == Check("first", "ok", "fine")
    assert second.status == "fail" and second.name == "name"
    assert second.message == "stopped with RuntimeError: two lines" and second.remedy


def test_interrupts_are_not_findings():
    def interrupt():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        list(attempt("name", interrupt))


def test_steps_that_build_on_each_other():
    def check(name, status):
        return Step(name, {"b": "a", "c": "b", "e": "d"}.get(name, ""), lambda *args: [status(name)])

    def good(name):
        return ok(name, "")

    steps = [
        check("a", lambda name: fail(name, "", "mend")),
        check("b", good),
        check("c", good),
        check("d", lambda name: warn(name, "", "look")),
        check("e", good),
        Step("f", (), crash),
    ]
    checks = list(run_steps(steps, "skipped", "argument"))
    assert [(item.name, item.status) for item in checks] == [
        ("a", "fail"),
        ("d", "warn"),
        ("e", "ok"),
        ("first", "ok"),
        ("f", "fail"),
        ("skipped", "warn"),
    ]
    assert checks[-1].message == "not checked: b, c"


def test_a_finding_needs_a_remedy():
    with pytest.raises(AssertionError, match="needs a remedy"):
        Check("name", "warn", "bad")


def test_long_lists():
    assert listed([]) == "" and listed("ab") == "a; b" and listed("abcde") == "a; b; c; and 2 more"

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of commands that a test cannot run: their own parsers read them, and recipes are run dry."""

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make")  # at import: the PATH of a block has programs of the test only
PLACEHOLDER = "…"
# What a recipe gets where the page leaves options to the reader
LEFT_OUT = ["--model_name_or_path", "CHECKPOINT", "--train_file", "train.jsonl"]
# A dry run needs none of the GPU's
DRY = ["--dry_run", "true", "--overwrite_output_dir", "true", "--use_cpu", "true", "--bf16", "false"]
DRY_STAGE2 = ["--use_vllm", "false"]
SCRIPT_OPTION = re.compile(r"--[a-z][\w-]*")


def check(name: str, arguments: Sequence[str]) -> int | str | None:
    """Reads a command without running it; returns or raises a status other than 0 if it is wrong."""
    return CHECKS[name](list(arguments))


def check_coordexp(arguments: list[str]) -> None:
    """The parser of the command line."""
    from coordexp_trl.cli import build_parser

    build_parser().parse_args(arguments)


def check_python(arguments: list[str]) -> int | str | None:
    """A recipe is run dry, of another script the options have to stand in its source."""
    if arguments[:2] == ["-m", "coordexp_trl.cli"]:
        return check_coordexp(arguments[2:])
    if arguments[:1] == ["-m"]:
        return CHECKS[arguments[1]](arguments[2:]) if arguments[1] in CHECKS else f"python -m {arguments[1]}: unknown"
    script = Path(arguments[0])
    if script.parent.name == "recipes" and re.fullmatch(r"stage\d\.py", script.name):
        return dry_run(script, arguments[1:])
    return check_script(script, arguments[1:])


def check_script(script: Path, arguments: Sequence[str]) -> str | None:
    """Whether a script exists and has the options, written with dashes or underscores."""
    if not script.is_file():
        return f"{script}: no such script"
    known = {option.replace("-", "_") for option in SCRIPT_OPTION.findall(script.read_text("utf-8"))}
    for option in (part.partition("=")[0] for part in arguments if part.startswith("--")):
        if option.replace("-", "_") not in known:
            return f"{script}: no option {option}"
    return None


def dry_run(script: Path, arguments: list[str]) -> None:
    """The recipe itself, up to its plan."""
    # `…` after the last value stands for more options; after an option it is the option's value
    if arguments[-1:] == [PLACEHOLDER] and not arguments[-2].startswith("--"):
        arguments = arguments[:-1] + LEFT_OUT
    sys.argv = [str(script), *arguments, *DRY, *(DRY_STAGE2 if script.name == "stage2.py" else [])]
    runpy.run_path(str(script), run_name="__main__")


def check_accelerate(arguments: list[str]) -> int | str | None:
    """The parser of `accelerate launch`, its configuration file, and what it launches."""
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    if arguments[:1] != ["launch"]:
        return f"accelerate {' '.join(arguments[:1])}: the test knows `accelerate launch` only"
    options = launch_command_parser().parse_args(arguments[1:])
    if options.config_file:
        load_config_from_file(options.config_file)
    module = ["-m"] if options.module else []
    return check_python([*module, options.training_script, *options.training_script_args])


def check_make(arguments: list[str]) -> int:
    """`make --dry-run` in the checkout: the targets exist."""
    return subprocess.run([MAKE, "--dry-run", "-C", ROOT, *arguments], stdout=subprocess.DEVNULL).returncode


def check_pip(arguments: list[str]) -> str | None:
    """pip's parser; what is installed of this project has the extras."""
    from pip._internal.commands import create_command

    if arguments[:1] != ["install"]:
        return f"pip {' '.join(arguments[:1])}: the test knows `pip install` only"
    options, packages = create_command("install").parse_args(arguments[1:])
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    for package in [*packages, *options.editables]:
        found = re.fullmatch(r"(?:\.|coordexp-trl)(?:\[(.*)\])?", package)
        if unknown := set(filter(None, ((found and found[1]) or "").split(","))) - known:
            return f"{package}: no extra {', '.join(sorted(unknown))}"
    return None


def check_hf(arguments: list[str]) -> None:
    """The parser of huggingface_hub."""
    from huggingface_hub.cli.hf import app

    command, context = app, None
    while command is not None:
        context = command.make_context("hf", arguments, parent=context)
        arguments = [*context._protected_args, *context.args]
        resolve = getattr(command, "resolve_command", None)
        _, command, arguments = resolve(context, arguments) if resolve else (None, None, [])


def check_swift(arguments: list[str]) -> str | None:
    """The plugins exist. Options are looked up in a test of their own, where the wheel of ms-swift is."""
    if arguments[:1] != ["sft"]:
        return f"swift {' '.join(arguments[:1])}: the test knows `swift sft` only"
    after = arguments[arguments.index("--external_plugins") + 1 :]
    missing = [part for part in takewhile(lambda part: not part.startswith("--"), after) if not Path(part).is_file()]
    return f"{missing[0]}: no such plugin" if missing else None


def check_tensorboard(arguments: list[str]) -> None:
    """The parser of TensorBoard."""
    from tensorboard.program import TensorBoard

    TensorBoard().configure(["tensorboard", *arguments])


def check_by_help(name: str) -> Callable[[list[str]], int | None]:
    """Whether an installed program has the subcommand, as its help is printed."""

    def run(arguments: list[str]) -> int | None:
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        sys.argv = [name, *arguments, "--help"]
        return entry.load()()

    return run


# vLLM's parser reads its commands in a test of its own, where vLLM is installed
CHECKS: dict[str, Callable[[list[str]], int | str | None]] = {
    "accelerate": check_accelerate,
    "coordexp": check_coordexp,
    "hf": check_hf,
    "make": check_make,
    "pip": check_pip,
    "pre-commit": check_by_help("pre-commit"),
    "pytest": check_by_help("pytest"),
    "python": check_python,
    "swift": check_swift,
    "tensorboard": check_tensorboard,
    "vllm": lambda arguments: None if arguments[:1] == ["serve"] else "the test knows `vllm serve` only",
}

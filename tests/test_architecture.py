# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The shape of the code: who may import whom, how long a file may be, and which words stay out of it."""

import ast
import os
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "coordexp_trl"

# A module imports from its own floor or a lower one.
FLOORS = {
    "coordinates": 1,
    "boxes": 1,
    "records": 1,
    "protocols": 2,
    "polygons": 2,
    "matching": 2,
    "sequences": 3,
    "losses": 3,
    "generation": 3,
    "trainers": 4,
}
MAX_LINES = 600
TEXT_SUFFIXES = {".cfg", ".in", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
# Split, so that this file does not hold them itself.
FORBIDDEN_WORDS = [
    *("/" + folder + "/" for folder in ("work", "root", "tmp")),
    *(".".join(host) for host in [("pypi", "org"), ("pythonhosted", "org"), ("download.pytorch", "org")]),
    *(".".join(host) for host in [("registry.npmjs", "org"), ("deb.debian", "org")]),
]


def tracked_files() -> list[Path]:
    """What git tracks or would track; without git, every file outside hidden folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (FileNotFoundError, subprocess.CalledProcessError):
        files = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(file) for file in files if not any(part.startswith(".") for part in file.parts)]
    return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_files() -> dict[str, Path]:
    return {module_name(file): file for file in sorted((ROOT / PACKAGE).rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_nodes(tree: ast.AST):
    """Every import statement that can run, inside functions too; those for type checkers alone are passed over."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif is_type_checking(node):
            for other in node.orelse:
                yield from import_nodes(other)
        else:
            yield from import_nodes(node)


def imported_modules(source: str, module: str, is_package: bool, modules: set[str]) -> set[str]:
    """The modules of the package that `module` imports; relative imports and submodules are resolved."""
    found = set()
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
            continue
        base = node.module or ""
        if node.level:
            anchor = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*anchor, base] if base else anchor)
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            found |= {submodule if submodule in modules else base} & modules
    return found - {module}


def import_graph() -> dict[str, set[str]]:
    files = package_files()
    return {
        name: imported_modules(file.read_text(encoding="utf-8"), name, file.name == "__init__.py", set(files))
        for name, file in files.items()
    }


def floor(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS.get(parts[1]) if len(parts) > 1 else None


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """
    Imports that climb: to a higher floor, from floors 1 and 2 to a module without a floor, or to the command line.

    Args:
        graph (`dict[str, set[str]]`):
            Imported modules by module.

    Returns:
        `list[str]`: One line for each offending import.
    """
    offences = []
    for module, imports in graph.items():
        here = floor(module)
        for target in imports:
            there = floor(target)
            climbs = here is not None and (there > here if there is not None else here <= 2)
            calls_cli = target.split(".")[1:2] == ["cli"] and not module.startswith(
                (f"{PACKAGE}.cli", f"{PACKAGE}.__main__")
            )
            if climbs or calls_cli:
                offences.append(f"{module} imports {target}")
    return sorted(offences)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import coordexp_trl.boxes", {"coordexp_trl.boxes"}),
        ("from coordexp_trl.boxes import box_iou", {"coordexp_trl.boxes"}),
        ("from coordexp_trl import boxes", {"coordexp_trl.boxes"}),  # a submodule, not the package
        ("from coordexp_trl import __version__", {"coordexp_trl"}),
        ("from . import text", {"coordexp_trl.losses.text"}),  # relative to losses/
        ("from .text import cross_entropy", {"coordexp_trl.losses.text"}),
        ("from ..boxes import box_iou", {"coordexp_trl.boxes"}),
        ("def f():\n    from coordexp_trl import boxes", {"coordexp_trl.boxes"}),  # deferred is still an import
        ("if TYPE_CHECKING:\n    from coordexp_trl import boxes", set()),
        ("import torch", set()),
    ],
)
def test_imports_are_resolved(source, expected):
    modules = {"coordexp_trl", "coordexp_trl.boxes", "coordexp_trl.losses", "coordexp_trl.losses.text"}
    assert imported_modules(source, "coordexp_trl.losses.geometry", False, modules) == expected


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("coordexp_trl.matching", "coordexp_trl.boxes", True),  # down
        ("coordexp_trl.sequences", "coordexp_trl.losses", True),  # the same floor
        ("coordexp_trl.boxes", "coordexp_trl.matching", False),  # up
        ("coordexp_trl.losses.text", "coordexp_trl.trainers.stage2_trainer", False),  # up, inside packages
        ("coordexp_trl.records", "coordexp_trl.datasets", False),  # out of the core
        ("coordexp_trl.trainers.stage2_trainer", "coordexp_trl.evaluation.f1", True),  # a module without a floor
        ("coordexp_trl.evaluation", "coordexp_trl.cli", False),  # nobody builds on the command line
        ("coordexp_trl.cli.main", "coordexp_trl.cli.eval", True),
    ],
)
def test_upward_imports_are_found(module, target, allowed):
    assert (upward_imports({module: {target}}) == []) is allowed


def test_no_module_imports_from_a_higher_floor():
    assert upward_imports(import_graph()) == []


def test_no_import_cycles():
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(reversed(error.args[1])))


def test_the_product_never_imports_the_development_runtime():
    users = [name for name, file in package_files().items() if "coordexp_cpu_runtime" in file.read_text("utf-8")]
    assert users == []


def test_no_python_file_is_too_long():
    lines = {file: len(file.read_text("utf-8").splitlines()) for file in tracked_files() if file.suffix == ".py"}
    assert {str(file.relative_to(ROOT)): n for file, n in lines.items() if n > MAX_LINES} == {}


def test_no_machine_paths_and_no_hosts():
    offences = []
    for file in tracked_files():
        if file.suffix not in TEXT_SUFFIXES:
            continue
        for number, line in enumerate(file.read_text("utf-8", errors="replace").splitlines(), start=1):
            words = [word for word in FORBIDDEN_WORDS if word in line]
            offences += [f"{os.path.relpath(file, ROOT)}:{number} holds {word!r}" for word in words]
    assert offences == []

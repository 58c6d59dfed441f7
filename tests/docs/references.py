# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reads the `module:object` references of a page, and looks them up by import or in source code."""

import ast
import importlib
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

REFERENCE = re.compile(r"`([a-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*(?:\.\w+)*)`")
LIBRARY_OF_PACKAGE = {name: name for name in ("accelerate", "peft", "torch", "transformers", "trl", "vllm")}
LIBRARY_OF_PACKAGE["swift"] = "ms-swift"
MAX_HOPS = 20  # re-exports and base classes between a name and its definition

ReadModule = Callable[[str], str | None]  # path inside the package's parent folder → source, None without such a file


@dataclass(frozen=True)
class Reference:
    """A name that a page gives: `module:object`, where the object may be an attribute of another."""

    module: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}:{'.'.join(self.path)}"

    @property
    def library(self) -> str:
        """The library as the page calls it."""
        return LIBRARY_OF_PACKAGE[self.module.partition(".")[0]]


@dataclass(frozen=True)
class Row:
    """A row of a table of capabilities."""

    capability: str
    references: str
    library: str
    verdict: str
    defects: str


def capability_rows(page: str) -> list[Row]:
    """The rows of all tables whose heading starts with `| capability |`."""
    rows, inside = [], False
    for line in page.splitlines():
        inside = line.startswith("| capability |") or (inside and line.startswith("|"))
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if inside and not line.startswith(("| capability |", "|---")):
            rows.append(Row(*cells))
    return rows


def stated_versions(page: str) -> dict[str, str]:
    """The page's table of versions."""
    return dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", page, re.M))


def find_references(text: str) -> list[Reference]:
    """All references in a text, in order; a package that the page may not name is an error."""
    found = [Reference(module, tuple(path.split("."))) for module, path in REFERENCE.findall(text)]
    for reference in found:
        assert reference.module.partition(".")[0] in LIBRARY_OF_PACKAGE, f"{reference}: an unknown package"
    return found


def is_importable(reference: Reference) -> bool:
    """Whether the object is there after an import; where a module cannot be imported, its source is read."""
    try:
        found = importlib.import_module(reference.module)
    except Exception:  # a missing GPU library, say; a module that does not exist has no source either
        return is_in_source(reference, installed_modules(reference.module.partition(".")[0]))
    for name in reference.path:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def installed_modules(package: str) -> ReadModule:
    """Reads the source of an installed package without importing it."""
    folder = Path(find_spec(package).origin).parents[1]

    def read(path: str) -> str | None:
        return (folder / path).read_text("utf-8") if (folder / path).is_file() else None

    return read


def wheel_modules(wheel: zipfile.ZipFile) -> ReadModule:
    """Reads the source of a package in a wheel."""
    names = set(wheel.namelist())
    return lambda path: wheel.read(path).decode("utf-8") if path in names else None


def is_in_source(reference: Reference, read: ReadModule) -> bool:
    """Whether the object is defined in the package's source, directly, by a re-export or in a base class."""
    found = _find(reference.module, reference.path[0], read, MAX_HOPS)
    if found is None:
        return _source(f"{reference.module}.{reference.path[0]}", read) is not None and len(reference.path) == 1
    return _has(*found, reference.path[1:], read, MAX_HOPS)


def _source(module: str, read: ReadModule) -> tuple[str, bool] | None:
    """Source of a module, and whether it is a package."""
    path = module.replace(".", "/")
    for file, is_package in ((f"{path}.py", False), (f"{path}/__init__.py", True)):
        if (source := read(file)) is not None:
            return source, is_package
    return None


def _find(module: str, name: str, read: ReadModule, hops: int) -> tuple[str, ast.stmt] | None:
    """The statement that defines a name of a module, and the module it stands in."""
    loaded = _source(module, read)
    if loaded is None or hops == 0:
        return None
    source, is_package = loaded
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = _absolute(node, module, is_package)
                    if (found := _find(origin, alias.name, read, hops - 1)) is not None:
                        return found
        elif name in _defined(node):
            return module, node
    return None


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module
    parents = module.split(".")
    parents = parents[: len(parents) + is_package - node.level]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _has(module: str, node: ast.stmt, path: tuple[str, ...], read: ReadModule, hops: int) -> bool:
    """Whether the chain of attributes starts at this definition."""
    if not path:
        return True
    if not isinstance(node, ast.ClassDef) or hops == 0:
        return False
    for child in _statements(node.body):
        if path[0] in _defined(child) and _has(module, child, path[1:], read, hops - 1):
            return True
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    found = [_find(module, base, read, hops - 1) for base in bases]
    return any(_has(*base, path, read, hops - 1) for base in found if base is not None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, those under conditions included."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _defined(node: ast.stmt) -> set[str]:
    """Names that a statement defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}

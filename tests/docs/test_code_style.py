# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What docs/code-style.md and docs/troubleshooting.md quote stands in the code."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STYLE = (ROOT / "docs" / "code-style.md").read_text("utf-8")
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
VLLM = (ROOT / "docs" / "vllm.md").read_text("utf-8")


def quotations() -> list[tuple[str, str]]:
    """Each block of Python and the file that was linked last before it."""
    found, file = [], None
    for link, block in re.findall(r"From\s+\[[^]]+\]\(\.\./([^)]+)\):|^```python\n(.*?)^```$", STYLE, re.M | re.S):
        file = link or file
        if block:
            found.append((file, block))
    return found


def messages() -> list[str]:
    """The constant parts of all strings of the package and of TRL's client; those of one literal are joined."""
    client = Path(find_spec("trl").origin).parent / "generation" / "vllm_client.py"
    texts = []
    for file in [*sorted((ROOT / "coordexp_trl").rglob("*.py")), client]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value.replace("`", ""))
    return texts


def test_quoted_code_is_that_of_the_file():
    assert len(quotations()) == 4
    for file, block in quotations():
        assert block in (ROOT / file).read_text("utf-8"), f"{file} does not have\n{block}"


@pytest.mark.parametrize("page", [TROUBLESHOOTING, VLLM], ids=["troubleshooting", "vllm"])
def test_quoted_messages_exist(page):
    quoted = re.findall(r'^\| "([^"]+)"', page, re.M)
    assert len(quoted) >= 7
    texts = messages()
    for message in quoted:
        # What the message fills in is written as … or as a name in capitals
        for part in re.split(r"…|\bN\b|\[…\]", message.replace("\\|", "|")):
            part = part.strip(" [].'")
            assert not part or any(part in text for text in texts), f"no message says {part!r}"

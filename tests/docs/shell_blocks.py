# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The fenced blocks of a page, with what the page says about running them."""

import re
from dataclasses import dataclass

# What `<!-- not run: … -->` directly before a block may say
REASONS = (
    "an excerpt",  # of Python, with names that the page has not defined
    "needs a GPU",
    "needs a vLLM server",
    "needs ms-swift",  # in an environment of its own
    "needs the network",
    "quoted from the code",  # word for word
    "runs until it is stopped",
    "works on the checkout",  # installs it, tests it, writes into its folders
)
RUN_LANGUAGES = ("bash", "python")
OTHER_LANGUAGES = ("", "diff", "json", "jsonl", "mermaid", "text", "toml", "xml", "yaml")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>.*)$")
_MARK = re.compile(r"^\s*<!--\s*not run:\s*(?P<reason>.*?)\s*-->\s*$")
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its code starts in line `line` of the page; `reason` is why it is not run, if it is not."""

    language: str
    line: int
    code: str
    reason: str | None = None


def read_blocks(page: str) -> list[Block]:
    """
    All fenced blocks of a page.

    Args:
        page (`str`):
            Text of the page.

    Returns:
        `list[Block]`: the blocks, in order. Indentation of the fence is taken off the code.

    Raises:
        `ValueError`: If a fence is not closed, a language or reason is unknown, or a mark stands before no block that
        could be run; with the line.
    """
    blocks, opened, mark = [], None, None
    for number, line in enumerate(page.splitlines(), 1):
        if opened is not None:
            fence, start, code = opened
            if line.strip() == fence["fence"]:
                blocks.append(_block(fence["language"].strip(), start, "\n".join(code), mark))
                opened = mark = None
            else:
                code.append(line.removeprefix(fence["indent"]))
        elif fence := _FENCE.match(line):
            opened = (fence, number + 1, [])
        elif mark is not None:
            raise ValueError(f"line {number - 1}: a block must begin directly after `not run`.")
        elif found := _MARK.match(line):
            mark = found["reason"]
            if mark not in REASONS:
                raise ValueError(f"line {number}: unknown reason {mark!r}, known are {', '.join(REASONS)}.")
        elif re.search(r"<!--.*not run", _INLINE.sub("", line)):
            raise ValueError(f"line {number}: write `<!-- not run: reason -->` in a line of its own.")
    if opened is not None:
        raise ValueError(f"line {opened[1] - 1}: the block is not closed.")
    return blocks


def _block(language: str, line: int, code: str, reason: str | None) -> Block:
    if language not in RUN_LANGUAGES + OTHER_LANGUAGES:
        known = ", ".join(filter(None, RUN_LANGUAGES + OTHER_LANGUAGES))
        raise ValueError(f"line {line - 1}: unknown language {language!r}, known are {known}.")
    if reason is not None and language not in RUN_LANGUAGES:
        raise ValueError(f"line {line - 1}: `not run` stands before a block of no commands.")
    if reason is None and language == "bash" and "…" in code:
        raise ValueError(f"line {line - 1}: `…` cannot be run: write it out or mark the block.")
    return Block(language, line, code, reason)


def transcript_commands(block: Block) -> list[Block]:
    """The commands that a printed session shows after `$`."""
    lines = enumerate(block.code.splitlines(), block.line)
    shown = [(number, line[2:]) for number, line in lines if block.language == "" and line.startswith("$ ")]
    return [Block("bash", number, line, "an excerpt") for number, line in shown]


def inline_code(page: str) -> list[tuple[int, str]]:
    """The pieces of code within the text, with their lines; blocks are left out."""
    found, fence = [], None
    for number, line in enumerate(page.splitlines(), 1):
        if fence is None and (opening := _FENCE.match(line)):
            fence = opening["fence"]
        elif fence is not None:
            fence = None if line.strip() == fence else fence
        else:
            found += [(number, code) for code in _INLINE.findall(line)]
    return found

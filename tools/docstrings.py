# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Reads docstrings in TRL's grammar, and writes what they say as Markdown."""

import html
import inspect
import re
from typing import NamedTuple

TRANSFORMERS = "https://huggingface.co/docs/transformers/main_classes/"
LINKS = {
    "TrainingArguments": f"{TRANSFORMERS}trainer#transformers.TrainingArguments",
    "GenerationConfig": f"{TRANSFORMERS}text_generation#transformers.GenerationConfig",
    "SFTConfig": "https://huggingface.co/docs/trl/sft_trainer#trl.SFTConfig",
    "ModelConfig": "https://github.com/huggingface/trl/blob/main/trl/trainer/model_config.py",
    "SamplingParams": "https://docs.vllm.ai/en/latest/api/vllm/sampling_params/",
}
_ENTRY = re.compile(r"(\w+) \((.+)\):")
_CHANGED = re.compile(r"> - `(\w+)`: (.+)")
_REFERENCE = re.compile(r"\[`~?([\w.]+)`\]")
_CODE = re.compile(r"(`[^`]+`)")
_PLAIN_WORD = re.compile(r"[a-z]+\b")


class Option(NamedTuple):
    """
    An entry of a docstring.

    Args:
        name (`str`):
            Name of the field.
        type (`str`):
            Its type in Markdown, without `*optional*` and the default.
        text (`str`):
            What it does, on one line.
    """

    name: str
    type: str
    text: str


def introduction(owner: type) -> str:
    """Returns the paragraphs of a docstring above its parameters, without the first line."""
    _, *paragraphs = re.split(r"\n(?:Parameters|Args):\n", inspect.getdoc(owner))[0].strip().split("\n\n")
    return "\n\n".join(_one_line(paragraph.split("\n")) for paragraph in paragraphs)


def options(owner: type) -> dict[str, list[Option]]:
    """
    Args:
        owner (`type`):
            Class whose docstring has a section `Parameters` or `Args`.

    Returns:
        `dict[str, list[Option]]`: Its entries by the title that stands above them, `""` where there is none.
    """
    section = re.split(r"\n(?:Parameters|Args):\n", inspect.getdoc(owner))[1]
    groups: dict[str, list[Option]] = {}
    title, lines = "", section.split("\n")
    for number, line in enumerate(lines):
        entry = _ENTRY.fullmatch(line.strip())
        if line.startswith("    > "):
            title = line.removeprefix("    > ")
        elif entry and line.startswith("    " + entry[1]):
            kind = entry[2].partition(", *optional*")[0]
            groups.setdefault(title, []).append(Option(entry[1], kind, _one_line(_indented(lines[number + 1 :]))))
    return groups


def changed_defaults(owner: type) -> dict[str, str]:
    """Returns what the note of a docstring says of each field whose default differs from that of the base class."""
    return dict(_CHANGED.findall(inspect.getdoc(owner)))


def _indented(lines: list[str]) -> list[str]:
    """The first lines that belong to an entry."""
    end = next((k for k, line in enumerate(lines) if not line.startswith(" " * 8)), len(lines))
    return lines[:end]


def _one_line(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def capitalised(text: str) -> str:
    """A phrase as the beginning of a sentence or heading; names such as `vLLM` and `shuffle_dataset` stay."""
    return text[0].upper() + text[1:] if _PLAIN_WORD.match(text) else text


def outside_code(pattern: re.Pattern, replacement: str, text: str) -> str:
    """Replaces a pattern in the parts of a text that are no code."""
    parts = _CODE.split(text)
    parts[::2] = [pattern.sub(replacement, part) for part in parts[::2]]
    return "".join(parts)


def linked(text: str) -> str:
    """References such as [`~trl.SFTConfig`] as code, with a link where the class has a page."""

    def link(match: re.Match) -> str:
        name = match[1].rpartition(".")[2]
        return f"[`{name}`]({LINKS[name]})" if name in LINKS else f"`{name}`"

    return _REFERENCE.sub(link, text)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; columns in which nothing stands are left out."""
    kept = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    lines = [[columns[k] for k in kept], ["---"] * len(kept), *([_cell(row[k]) for k in kept] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """GitHub and Python-Markdown do not agree how a pipe in code is written within a table, but both read HTML."""
    parts = _CODE.split(linked(text))
    for k, part in enumerate(parts):
        if k % 2 and "|" in part:
            escaped = html.escape(part.strip("`"), quote=False)
            parts[k] = f"<code>{re.sub('[|*_]', lambda match: f'&#{ord(match[0])};', escaped)}</code>"
        elif k % 2 == 0:
            parts[k] = part.replace("<", "&lt;").replace("|", "\\|")
    return "".join(parts)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What is checked of a page: its blocks, the names that its Python imports, and the commands within its text."""

import ast
import importlib
import re
from dataclasses import replace

from command_checks import check_script
from sandbox import ROOT, Sandbox
from shell_blocks import Block, inline_code, read_blocks, transcript_commands

from coordexp_trl.cli import build_parser

# Replaced in Python blocks, so that their trainings are short and need no GPU
SHORTER_PYTHON = (
    "Config(output_dir=",
    "Config(max_steps=1, max_completion_length=24, use_cpu=True, bf16=False, output_dir=",
)
# A YAML block that begins so is a file of the reader
NAMED_FILE = re.compile(r"# ([\w.-]+\.yaml)\n")


def run_page(sandbox: Sandbox, name: str, text: str) -> str | None:
    """Runs or checks the blocks of a page, up to the first that fails; returns what is wrong, with its output."""
    for block in read_blocks(text):
        if (found := NAMED_FILE.match(block.code)) and block.language == "yaml":
            (sandbox.folder / found[1]).write_text(block.code, encoding="utf-8")
        is_run = block.language == "bash" or (block.language == "python" and block.reason is None)
        for part in [block] if is_run else transcript_commands(block):
            if part.language == "python":
                part = replace(part, code=part.code.replace(*SHORTER_PYTHON))
            if (wrong := sandbox.run(name, part)) is not None:
                return wrong
    return None


def wrong_python(block: Block) -> list[str]:
    """Names that a Python block imports from this project and that are not there; of a quotation, that it is none."""
    if block.reason == "quoted from the code":
        files = (file for folder in ("coordexp_trl", "recipes", "tests") for file in (ROOT / folder).rglob("*.py"))
        found = any(f"{block.code}\n" in file.read_text("utf-8") for file in files)
        return [] if found else [f"line {block.line}: no file has this"]
    examples = [line[4:] for line in block.code.splitlines() if line.startswith((">>> ", "... "))]
    wrong = []
    for node in ast.walk(ast.parse("\n".join(examples) or block.code)):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        modules = [node.module] if isinstance(node, ast.ImportFrom) else names
        for module in modules:
            if module.partition(".")[0] != "coordexp_trl":
                continue
            try:
                found = importlib.import_module(module)
            except ImportError as error:
                wrong.append(f"line {block.line}: {error}")
                continue
            if isinstance(node, ast.ImportFrom):
                wrong += [f"line {block.line}: {module} has no {name}" for name in names if not hasattr(found, name)]
    return wrong


def wrong_inline(text: str) -> list[str]:
    """Commands within the text whose words, options, targets or scripts do not exist."""
    wrong = []
    for line, code in inline_code(text):
        words = code.split()
        options = [word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word)]
        problem = None
        if words[:1] == ["coordexp"]:
            problem = wrong_command(words[1:], options)
        elif words[:1] == ["make"] and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
            problem = None if words[1] in targets else f"no target {words[1]}"
        elif words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            problem = check_script(ROOT / words[1], options)
        wrong += [f"line {line}: `{code}`: {problem}"] if problem else []
    return wrong


def wrong_command(words: list[str], options: list[str]) -> str | None:
    """What is wrong with a command that may be abbreviated."""
    parser = build_parser()
    for word in words:
        if parser._commands is None or not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        if word not in parser._commands.choices:
            return f"no command {word}"
        parser = parser._commands.choices[word]
    known = {option.replace("-", "_") for option in parser._option_string_actions}
    known |= {f"__{action.dest}" for action in parser._get_positional_actions()}
    return next((f"no option {option}" for option in options if option.replace("-", "_") not in known), None)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""The page of all commands, from their argument parsers."""

import argparse
import re

from docstrings import capitalised, outside_code, table

from coordexp_trl.cli import build_parser

# What is code in a help text: options, variables, and words with a sign that prose does not have
_CODE_WORD = re.compile(r"(--[a-z][\w-]*|[^\s`();:]*[_<{*$][^\s`();]*[^\s`();:,.])")


def commands_page() -> list[str]:
    text = (
        "`--help` after any command prints the same. Options may be written with dashes or underscores, and arguments "
        "without dashes as options too (`--data FILE`). A mistake is one line on stderr and exit status 2; with the "
        "environment variable `COORDEXP_DEBUG=1` a traceback too."
    )
    return ["# Commands", text, *command_blocks(build_parser(), "coordexp", 1)[2:]]


def command_blocks(parser: argparse.ArgumentParser, name: str, level: int) -> list[str]:
    """Heading, description and options of a command, and those of the commands in it."""
    blocks = [f"{'#' * level} `{name}`", f"{capitalised(_as_markdown(parser.description)).rstrip('.')}."]
    positional, optional, *others = ([*group._group_actions] for group in parser._action_groups)
    titles = ["", *(f"{capitalised(group.title)}:" for group in parser._action_groups[2:])]
    for title, actions in zip(titles, [positional + optional, *others], strict=True):
        rows = [_argument_row(action) for action in actions if _is_argument(action)]
        if rows:
            blocks += [*filter(None, [title]), table(["option", "value", "default", "meaning"], rows)]
    for group in parser._mutually_exclusive_groups:
        names = " and ".join(f"`{action.option_strings[0]}`" for action in group._group_actions)
        blocks.append(f"Of {names} {'exactly' if group.required else 'at most'} one is given.")
    if parser.epilog:
        blocks.append(f"{capitalised(_as_markdown(parser.epilog))}.")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part, child in action.choices.items():
                blocks += command_blocks(child, f"{name} {part}", level + 1)
    return blocks


def _is_argument(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _argument_row(action: argparse.Action) -> list[str]:
    if action.choices:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    else:
        value = "" if action.nargs == 0 else f"`{action.metavar or action.dest.upper()}`"
    value += " …" if action.nargs == "+" else ""
    tells_nothing = action.default is None or action.default is False or action.default is argparse.SUPPRESS
    default = "" if tells_nothing else f"`{action.default}`"
    name = action.option_strings[-1] if action.option_strings else action.dest
    return [f"`{name}`", value, "required" if action.required else default, _as_markdown(action.help)]


def _as_markdown(help_text: str) -> str:
    return outside_code(_CODE_WORD, r"`\1`", help_text.replace("%%", "%"))

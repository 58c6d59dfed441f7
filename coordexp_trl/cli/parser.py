# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""An argument parser that takes dashes and underscores alike and names the nearest command or option after a typo."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable


class CommandParser(argparse.ArgumentParser):
    """
    Parser of a command, or of a group of commands if [`CommandParser.add_commands`] was called.

    Options may be written with dashes or underscores (`--num-images`, `--num_images`), but not abbreviated: an option
    that does not exist is an error that names the nearest one. A positional argument may be written as an option too
    (`--data FILE`).
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self._commands: argparse._SubParsersAction | None = None

    def add_commands(self) -> argparse._SubParsersAction:
        """Makes this parser a group; add commands to the result with [`add_command`]."""
        self._commands = self.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
        return self._commands

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        if self._commands is None:
            args = self._check_options(args)
        else:
            self._check_command(args)
        return super().parse_known_args(args, namespace)

    def _check_command(self, args: list[str]) -> None:
        """Stops unless the first argument is a command of this group or a known option."""
        if not args:
            self.print_help()
            self.exit(2)
        options, commands = self._option_string_actions, self._commands.choices
        name = args[0]
        if name not in options and name not in commands:
            kind = "option" if name.startswith("-") else "command"
            known = options if kind == "option" else commands
            self.error(f"unknown {kind} {name!r}{_nearest(name, known)} Commands: {', '.join(commands)}.")

    def _check_options(self, args: list[str]) -> list[str]:
        """Writes option names with dashes, takes positional arguments by name, and stops at an unknown option."""
        checked, positionals = [], {action.dest for action in self._get_positional_actions()}
        for position, argument in enumerate(args):
            if argument == "--":
                return checked + args[position:]
            if argument.startswith("--"):
                name, equals, value = argument.partition("=")
                name = name.replace("_", "-")
                if name.removeprefix("--") in positionals:
                    checked += [value] if equals else []
                    continue
                if name not in self._option_string_actions:
                    self.error(f"unknown option {name!r}{_nearest(name, self._option_string_actions)}")
                argument = name + equals + value
            checked.append(argument)
        return checked


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str, **kwargs) -> None:
        super().__init__(prog, max_help_position=32, **kwargs)

    def _get_help_string(self, action: argparse.Action) -> str:
        """Leaves out defaults that tell nothing: of required options and of flags."""
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def add_command(
    commands: argparse._SubParsersAction, name: str, help: str, run: Callable[[argparse.Namespace], int | None]
) -> CommandParser:
    """
    Adds a command to a group.

    Args:
        commands (`argparse._SubParsersAction`):
            The group, from [`CommandParser.add_commands`].
        name (`str`):
            Name of the command.
        help (`str`):
            One line, shown in the list of commands and at the top of the command's own help.
        run (`Callable`):
            Called with the parsed arguments; returns the exit status, or `None` for 0.

    Returns:
        [`CommandParser`]: the parser of the command, to add its arguments to.
    """
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def add_group(commands: argparse._SubParsersAction, name: str, help: str) -> argparse._SubParsersAction:
    """Adds a group of commands to a group; see [`add_command`]."""
    return commands.add_parser(name, help=help, description=help).add_commands()


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else "."

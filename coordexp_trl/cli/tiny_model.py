# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp tiny-model`: a tiny random Qwen3-VL for tests and demonstrations."""

import argparse

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "tiny-model", "write a tiny random Qwen3-VL checkpoint with coordinate tokens", _run
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights")


def _run(args: argparse.Namespace) -> None:
    from coordexp_trl.tiny import create_tiny_checkpoint

    print(f"wrote {create_tiny_checkpoint(args.out, seed=args.seed)}")

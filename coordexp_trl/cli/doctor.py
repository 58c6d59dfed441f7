# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp doctor`: is everything in order?"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TextIO

from coordexp_trl.cli.parser import add_command


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "doctor", "check installation, checkpoint, data and server, and name remedies", _run
    )
    parser.epilog = "exit status: 0 without a fail, 1 with one (--strict: or a warn), 2 if the command itself is wrong"
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder; its weights are not loaded")
    parser.add_argument("--adapter", metavar="DIR", help="PEFT adapter, for --model or the base that it names")
    parser.add_argument("--data", metavar="FILE", help="records (JSONL) or a fusion (YAML)")
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")
    parser.add_argument("--protocol", choices=("tags", "json"), default="tags", help="how the data is written")
    parser.add_argument("--server", metavar="URL", help="vLLM server, such as http://localhost:8000")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for the server to answer")
    parser.add_argument("--parity", action="store_true", help="load --model and compare a completion of --server")
    parser.add_argument("--strict", action="store_true", help="warnings count as failures")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")


def _run(args: argparse.Namespace) -> int:
    if args.timeout <= 0:
        raise ValueError(f"timeout = {args.timeout:g}: must be positive.")
    if args.parity and not (args.model and args.server):
        raise ValueError("parity: needs a checkpoint (--model) and a server (--server) to compare.")

    from coordexp_trl.doctor import examine
    from coordexp_trl.doctor.quiet import quiet_output

    checks, out = [], sys.stdout
    with quiet_output():
        for check in examine(
            args.model,
            args.adapter,
            args.data,
            args.server,
            args.image_root,
            args.protocol,
            args.timeout,
            args.parity,
        ):
            checks.append(check)
            if not args.json:
                _print(check, out)
    counts = Counter(check.status for check in checks)
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        print(f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail")
    return int(bool(counts["fail"] or (args.strict and counts["warn"])))


def _print(check, out: TextIO) -> None:
    print(f"{check.status:<4}  {check.name}: {check.message}", file=out, flush=True)
    if check.remedy is not None:
        print(f"      -> {check.remedy}", file=out, flush=True)

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data export ms-swift`."""

import argparse

from coordexp_trl.cli.data.export.options import add_prompt, add_shared, shared
from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "ms-swift", "export a dataset of ms-swift", _run)
    add_shared(parser, image_paths="absolute")
    add_prompt(parser, default="to locate every object and answer in JSON; with --model what Stage-1 asks")
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="checkpoint with coordinate tokens: write these into the answers (default: a grounding dataset, boxes in "
        "pixels)",
    )
    parser.add_argument(
        "--protocol", choices=("tags", "json"), help="with --model: how the answers are written (default: tags)"
    )


def _run(args: argparse.Namespace) -> None:
    if args.model is None:
        if args.protocol is not None:
            raise ValueError(f"protocol = {args.protocol!r}: only coordinate tokens have one. Give --model.")
        from coordexp_trl.datasets.ms_swift import export_ms_swift

        report = export_ms_swift(**shared(args))
    else:
        from coordexp_trl.datasets.ms_swift_tokens import export_ms_swift_tokens

        report = export_ms_swift_tokens(**shared(args), model=args.model, protocol=args.protocol or "tags")
    print_table(report.rows())
    print(f"wrote {args.out}")

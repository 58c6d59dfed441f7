# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp data lvis`: LVIS from its downloads to training files."""

import argparse
import os

from coordexp_trl.cli.parser import add_command
from coordexp_trl.tables import print_table

# Option, default of the command, help. Each has an environment variable of its name in capitals; the option wins.
_TEXTS = (
    ("raw-root", None, "folder of the downloads: annotations/lvis_v1_*.json and images/{train2017,val2017}"),
    ("output-base", None, "folder in which rescale_<FACTOR>_<MAX_BLOCKS>/ is made"),
    ("splits", "train,val", "splits to make, separated by commas"),
)
_NUMBERS = (
    ("factor", 32, "image sizes are multiples of this number of pixels"),
    ("max-blocks", 768, "largest area of an image, in FACTOR × FACTOR"),
    ("min-blocks", 4, "smallest area of an image, in FACTOR × FACTOR"),
    ("poly-max-points", 20, "polygons with more vertices are simplified to this number"),
    ("tiny", 256, "records of the tiny subsets"),
    ("num-workers", None, "processes that resize, one for each CPU unless given"),
)


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "lvis", "make training files of LVIS in one go", _run)
    for kind, metavar, options in ((str, "TEXT", _TEXTS), (int, "N", _NUMBERS)):
        for name, default, title in options:
            shown = "" if default is None else f" or {default}"
            parser.add_argument(
                f"--{name}",
                type=kind,
                metavar="DIR" if kind is str and default is None else metavar,
                help=f"{title} (default: ${_variable(name)}{shown})",
            )
    parser.add_argument(
        "--train-annotations", metavar="FILE", help="instead of RAW_ROOT/annotations/lvis_v1_train.json"
    )
    parser.add_argument("--val-annotations", metavar="FILE", help="instead of RAW_ROOT/annotations/lvis_v1_val.json")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, instead of RAW_ROOT/images")
    parser.add_argument(
        "--geometry",
        choices=("polygon", "box", "parts"),
        default="polygon",
        help="polygon: one object an annotation, its box if it has several polygons; box: all boxes; parts: an object "
        "a polygon",
    )
    parser.add_argument("--rename", metavar="FILE", help="JSON or YAML file that maps category names to descriptions")
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="quality of JPEG files, 1 to 100")
    parser.add_argument("--skip-missing-images", action="store_true", help="count and leave out images without a file")
    parser.add_argument("--skip-bad-images", action="store_true", help="count and leave out undecodable images")


def _run(args: argparse.Namespace) -> None:
    values = {
        name.replace("-", "_"): _value(args, name, default, kind)
        for kind, options in ((str, _TEXTS), (int, _NUMBERS))
        for name, default, _ in options
    }
    for name in ("raw_root", "output_base"):
        if not values[name]:
            raise ValueError(f"--{name.replace('_', '-')} is missing. Give it, or set the variable {name.upper()}.")

    from coordexp_trl.datasets.lvis_pipeline import SPLITS, LvisSettings, prepare_lvis
    from coordexp_trl.datasets.resize_settings import ResizeSettings

    sizes = {name: values.pop(name) for name in ("factor", "max_blocks", "min_blocks")}
    values["splits"] = tuple(part.strip() for part in values["splits"].split(",") if part.strip())
    given = {split: getattr(args, f"{split}_annotations") for split in SPLITS}
    settings = LvisSettings(
        **values,
        resize=ResizeSettings(**sizes, quality=args.quality),
        annotations={split: file for split, file in given.items() if file is not None},
        images=args.images,
        geometry=args.geometry,
        rename=args.rename,
        skip_missing_images=args.skip_missing_images,
        skip_bad_images=args.skip_bad_images,
    )
    reports = prepare_lvis(settings)
    columns = [dict(report.rows()) for report in reports.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    names.sort(key=lambda name: (name.startswith("note: "), name.startswith("dropped: ")))
    print_table([[name, *(column.get(name, 0) for column in columns)] for name in names], ["", *reports])
    print(f"wrote {settings.folder}")


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()


def _value(args: argparse.Namespace, name: str, default: object, kind: type) -> object:
    """The option, else the environment variable, else the default."""
    given = getattr(args, name.replace("-", "_"))
    if given is not None:
        return given
    text = os.environ.get(_variable(name), "")
    if not text:
        return default
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"environment variable {_variable(name)} = {text!r}: must be an integer.") from error

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The demonstration behind `make demo`: Stage-2 makes the tiny detector better on pictures that it never saw.

It draws pictures of shapes and launches a recipe on the detector that the package ships, as any user would. Options
that are not its own are passed on, such as `--mode expert`.
"""

import argparse
from pathlib import Path

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.recipe import launch_on_cpu
from coordexp_trl.tiny import DETECTOR_SCENES, DETECTOR_SEEDS, detector_path

RECIPES = Path(__file__).resolve().parent


def fresh_folder(path: Path) -> Path:
    """Returns `path`, or the first of `path-2`, `path-3`, … that does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demonstration")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2, help="1 continues Stage-1 instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument(
        "--num-images", "--num_images", type=int, default=4000, help="pictures to learn from, of the detector's own"
    )
    parser.add_argument("--num-held-out", "--num_held_out", type=int, default=256, help="pictures to evaluate on")
    options, training_options = parser.parse_known_args()

    out = fresh_folder(options.out)
    train = create_shapes(out / "train", options.num_images, seed=DETECTOR_SEEDS["train"], **DETECTOR_SCENES)
    held_out = create_shapes(out / "held_out", options.num_held_out, seed=DETECTOR_SEEDS["demo"], **DETECTOR_SCENES)
    files = {"train_file": train, "eval_file": held_out, "model_name_or_path": detector_path()}
    launch_on_cpu(
        RECIPES / f"stage{options.stage}.py",
        *("--config", RECIPES / f"stage{options.stage}_demo_cpu.yaml"),
        *(part for name, path in files.items() for part in (f"--{name}", path)),
        *("--output_dir", out / "run", "--seed", options.seed),
        *training_options,
    )


if __name__ == "__main__":
    main()

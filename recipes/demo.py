# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
The demonstration behind `make demo`: a tiny random Qwen3-VL learns a few pictures of shapes from its own rollouts.

It makes the model and the pictures, then launches `recipes/stage2.py` as any user would. Options that are not its
own are passed on, such as `--max_steps 100`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.tiny import create_tiny_checkpoint

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
    parser.add_argument("--num-images", "--num_images", type=int, default=24, help="number of pictures to learn")
    parser.add_argument("--seed", type=int, default=0, help="seed of model, pictures and training")
    options, training_options = parser.parse_known_args()

    out = fresh_folder(options.out)
    create_tiny_checkpoint(out / "model", seed=options.seed)
    records = create_shapes(out / "shapes", options.num_images, seed=options.seed, max_objects=3)
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        *"launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no".split(),
        *(str(RECIPES / "stage2.py"), "--config", str(RECIPES / "stage2_tiny_cpu.yaml")),
        *("--model_name_or_path", str(out / "model"), "--output_dir", str(out / "run"), "--seed", str(options.seed)),
        *("--train_file", str(records), "--eval_file", str(records)),
        *training_options,
    ]
    print(" ".join(command), flush=True)
    sys.exit(subprocess.run(command, env={**os.environ, "ACCELERATE_USE_CPU": "true"}).returncode)


if __name__ == "__main__":
    main()

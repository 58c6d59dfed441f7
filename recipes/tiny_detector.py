# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Makes the tiny detector that the package ships, behind `make tiny-detector`: random weights → Stage-1 on pictures of
shapes → a bfloat16 checkpoint with its training log.

It makes model and pictures, then launches `recipes/stage1.py` as any user would. Options that are not its own are
passed on, such as `--max_steps 100`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from coordexp_trl.datasets.shapes import create_shapes
from coordexp_trl.recipe import launch_on_cpu
from coordexp_trl.tiny import DETECTOR_SCENES, DETECTOR_SEEDS, create_tiny_checkpoint, detector_path

RECIPES = Path(__file__).resolve().parent
RECIPE = RECIPES / "stage1_tiny_detector.yaml"
WORK = Path("runs/tiny_detector")  # as the recipe says


def export(run: Path, out: Path) -> None:
    """Writes the trained model in bfloat16 with recipe and training log."""
    shutil.rmtree(out, ignore_errors=True)
    model = AutoModelForImageTextToText.from_pretrained(run, dtype=torch.bfloat16)
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(run).save_pretrained(out)
    shutil.copy(RECIPE, out / "recipe.yaml")
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    lines = [json.dumps(entry) for entry in state["log_history"]]
    (out / "training_log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=detector_path(), help="folder of the detector; replaced")
    parser.add_argument("--num-images", "--num_images", type=int, default=16000, help="pictures to learn from")
    options, training_options = parser.parse_known_args()

    shutil.rmtree(WORK, ignore_errors=True)
    create_tiny_checkpoint(WORK / "model", seed=0, structure_tokens=True, merge_size=1)
    create_shapes(WORK / "train", options.num_images, seed=DETECTOR_SEEDS["train"], **DETECTOR_SCENES)
    create_shapes(WORK / "held_out", 128, seed=DETECTOR_SEEDS["held_out"], **DETECTOR_SCENES)
    launch_on_cpu(RECIPES / "stage1.py", "--config", RECIPE, *training_options)
    export(WORK / "stage1", options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

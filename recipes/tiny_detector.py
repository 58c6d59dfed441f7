# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Makes the tiny detector that the package ships, behind `make tiny-detector`: random weights → Stage-1 on easy, then on
crowded pictures of shapes, at last in random order → a bfloat16 checkpoint with recipes and training logs.

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
# Each recipe, and the folder of its run
PHASES = {
    "stage1_tiny_detector_easy.yaml": "easy_run",
    "stage1_tiny_detector.yaml": "run",
    "stage1_tiny_detector_long.yaml": "long_run",
    "stage1_tiny_detector_random.yaml": "random_run",
}
WORK = Path("runs/tiny_detector")  # as the recipes say


def export(out: Path) -> None:
    """Writes the trained model in bfloat16, with the recipes and logs of its training."""
    trained = WORK / list(PHASES.values())[-1]
    shutil.rmtree(out, ignore_errors=True)
    model = AutoModelForImageTextToText.from_pretrained(trained, dtype=torch.bfloat16)
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(trained).save_pretrained(out)
    for recipe, run in PHASES.items():
        shutil.copy(RECIPES / recipe, out)
        state = json.loads((WORK / run / "trainer_state.json").read_text(encoding="utf-8"))
        lines = [json.dumps(entry) for entry in state["log_history"]]
        (out / recipe).with_suffix(".log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=detector_path(), help="folder of the detector; replaced")
    parser.add_argument("--num-images", "--num_images", type=int, default=16000, help="crowded pictures")
    parser.add_argument("--num-easy", "--num_easy", type=int, default=4000, help="easy pictures")
    options, training_options = parser.parse_known_args()

    shutil.rmtree(WORK, ignore_errors=True)
    create_tiny_checkpoint(WORK / "model", seed=0, structure_tokens=True, contrast_filters=False, merge_size=1)
    easy = {**DETECTOR_SCENES, "min_objects": 1, "max_objects": 4}
    create_shapes(WORK / "easy", options.num_easy, seed=DETECTOR_SEEDS["easy"], **easy)
    create_shapes(WORK / "train", options.num_images, seed=DETECTOR_SEEDS["train"], **DETECTOR_SCENES)
    create_shapes(WORK / "held_out", 128, seed=DETECTOR_SEEDS["held_out"], **DETECTOR_SCENES)
    for recipe in PHASES:
        launch_on_cpu(RECIPES / "stage1.py", "--config", RECIPES / recipe, *training_options)
    export(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What scores and standard deviations add to generation.

The same batch of pictures of shapes is generated greedily by transformers and read, with and without probabilities, in
turns in one process. Where other work shares the machine the two times vary by more than they differ, so the work
itself is timed too: what records probabilities during generation, and what reading takes longer with them. Times are
CPU seconds. Two models: the shipped tiny detector, and a random one that is some ten times larger.

    python benchmarks/infer_scores.py
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import transformers
from machine import cpu_model

from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.generation import Prompt, SamplingConfig, transformers_engine
from coordexp_trl.inference import InferenceConfig, Predictor
from coordexp_trl.tiny import DETECTOR_SCENES, create_tiny_checkpoint, detector_path


class Stopwatch:
    """Sums the time inside the methods of a class that it is told to watch; calls of one by another count once."""

    def __init__(self, watched: type, names: tuple[str, ...]):
        self.seconds, self.depth = 0.0, 0
        for name in names:
            setattr(watched, name, self._timed(getattr(watched, name)))

    def _timed(self, method):
        def timed(*args, **kwargs):
            self.depth += 1
            started = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.process_time() - started

        return timed


@dataclasses.dataclass
class Times:
    """CPU seconds of one generation: all of it, its recording of probabilities, and the reading afterwards."""

    generate: float
    record: float
    read: float


def measure(
    predictor: Predictor, prompts: list[Prompt], sampling: SamplingConfig, stopwatch: Stopwatch
) -> tuple[Times, int]:
    stopwatch.seconds = 0.0
    started = time.process_time()
    rollouts = predictor.engine.generate(prompts, sampling)
    generated = time.process_time()
    for rollout in rollouts:
        predictor.read([rollout], "", 128, 128)
    times = Times(generated - started, stopwatch.seconds, time.process_time() - generated)
    return times, sum(len(rollout.completion_ids) for rollout in rollouts)


def compare(name: str, model: Path, options: argparse.Namespace, stopwatch: Stopwatch) -> None:
    config = InferenceConfig(prompt="Detect.", max_completion_length=options.completion_length)
    predictor = Predictor(model, config=config, batch_size=options.num_images)
    pictures = [draw_shapes(seed=1, index=k, **DETECTOR_SCENES)[0] for k in range(options.num_images)]
    prompts = predictor.prompts(pictures)
    arms = {
        "without": dataclasses.replace(predictor.sampling, logprobs=False, coord_logits=False),
        "with": predictor.sampling,
    }
    found: dict[str, list[Times]] = {arm: [] for arm in arms}
    for repetition in range(options.repetitions + 1):
        for arm in list(arms)[:: 1 if repetition % 2 else -1]:
            times, tokens = measure(predictor, prompts, arms[arm], stopwatch)
            if repetition:  # the first one warms up
                found[arm].append(times)
    whole = {arm: median(each.generate + each.read for each in times) for arm, times in found.items()}
    record = median(each.record for each in found["with"])
    reading = median(each.read for each in found["with"]) - median(each.read for each in found["without"])
    share = (record + reading) / median(each.generate - each.record for each in found["with"])
    print(
        f"{name}: {options.num_images} images, {tokens} tokens; medians: without {whole['without']:.3f} s, with "
        f"{whole['with']:.3f} s (ratio {whole['with'] / whole['without']:.3f}); recording {record:.4f} s and reading "
        f"{reading:.4f} s more, {share:.1%} of the generation"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--completion-length", type=int, default=160)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    print(
        f"{cpu_model()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    stopwatch = Stopwatch(transformers_engine._Recorder, ("observe", "__call__", "settle", "coord_logits"))
    compare("tiny detector", detector_path(), options, stopwatch)
    with tempfile.TemporaryDirectory() as folder:
        random = create_tiny_checkpoint(Path(folder) / "model", hidden_size=512, num_layers=8)
        compare("random, 8 layers of width 512", random, options, stopwatch)


if __name__ == "__main__":
    main()

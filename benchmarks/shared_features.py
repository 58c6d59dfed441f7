# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Vision features computed once per image, against the tower run for every sequence.

A generation of N images is rolled out greedily, and each image then has two training sequences, forward and backward
through the language model. Arms, interleaved in one process:

* `repeated`: stock transformers, the pixels of each sequence go through the tower;
* `per forward`: the tower runs once per image in the rollout and once in the forward (a tower that learns);
* `per step`: the tower runs once per image and step (a frozen tower).
"""

import argparse
import os
import platform
import statistics
import time
from contextlib import nullcontext

import torch
import transformers
from PIL import Image

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation import (
    ImageFeatures,
    PromptBuilder,
    SamplingConfig,
    TransformersEngine,
    feature_placeholders,
)
from coordexp_trl.models import backbone, freeze_modules
from coordexp_trl.tiny import build_tiny_config, build_tiny_model, build_tiny_processor, build_tiny_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--completion-length", type=int, default=128)
    parser.add_argument("--vision-depth", type=int, default=12)
    parser.add_argument("--num-layers", type=int, default=6)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()

    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(
        tokenizer,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        vision_depth=options.vision_depth,
    )
    model = build_tiny_model(config, tokenizer)
    freeze_modules(model, ["vision_tower", "projector"])
    body = backbone(model)
    generator = torch.Generator().manual_seed(0)
    shape = (options.image_size, options.image_size, 3)
    images = [
        Image.fromarray(torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy())
        for _ in range(options.num_images)
    ]
    prompts = PromptBuilder(build_tiny_processor(tokenizer))(images)
    engine = TransformersEngine(
        lambda: nullcontext(model),
        eos_token_ids=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        image_token_id=config.image_token_id,
        suppress_tokens=[config.image_token_id, config.video_token_id, tokenizer.eos_token_id],
        coord_ids=CoordVocabulary.from_tokenizer(tokenizer).ids,
    )
    sampling = SamplingConfig(options.completion_length)
    sequences = [k for k in range(len(prompts)) for _ in range(2)]

    def encode() -> ImageFeatures:
        with torch.no_grad():
            return ImageFeatures.encode(body, prompts)

    def train(completions: list[list[int]], features: ImageFeatures | None) -> float:
        input_ids = torch.tensor([prompts[k].ids + completions[k] for k in sequences])
        repeated = [prompts[k] for k in sequences]
        pixels = (
            torch.cat([prompt.pixel_values for prompt in repeated])
            if features is None
            else feature_placeholders(repeated, sequences)
        )
        with features.serve(body) if features is not None else nullcontext():
            hidden = body(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                mm_token_type_ids=(input_ids == config.image_token_id).int(),
                pixel_values=pixels,
                image_grid_thw=torch.cat([prompt.image_grid_thw for prompt in repeated]),
                use_cache=False,
            ).last_hidden_state
        loss = hidden.pow(2).mean()
        loss.backward()
        model.zero_grad()
        return loss.item()

    def step(arm: str) -> tuple[float, float]:
        started = time.perf_counter()
        features = encode() if arm == "per step" else None
        completions = [rollout.completion_ids for rollout in engine.generate(prompts, sampling, features)]
        if arm == "per forward":
            features = encode()
        loss = train(completions, features)
        return time.perf_counter() - started, loss

    arms = ("repeated", "per forward", "per step")
    runs = {arm: [] for arm in arms}
    losses = {arm: step(arm)[1] for arm in arms}  # warm-up, and the arms must agree
    assert max(losses.values()) - min(losses.values()) < 1e-5 * abs(losses["repeated"]), losses
    for _ in range(options.repetitions):
        for arm in arms:
            runs[arm].append(step(arm)[0])
    medians = {arm: statistics.median(times) for arm, times in runs.items()}
    tower = sum(parameter.numel() for parameter in body.visual.parameters())
    text = sum(parameter.numel() for parameter in body.language_model.parameters())
    print(
        f"{options.num_images} images of {options.image_size} x {options.image_size} ({len(prompts[0].ids)} prompt "
        f"tokens), {options.completion_length} new tokens, tower {tower / 1e6:.1f} M, language model "
        f"{text / 1e6:.1f} M parameters; {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, median of {options.repetitions}.\n"
    )
    print("| vision tower runs | seconds a step | ratio |\n|---|---|---|")
    for arm in arms:
        print(f"| {arm} | {medians[arm]:.2f} | {medians[arm] / medians['repeated']:.2f} |")


if __name__ == "__main__":
    main()

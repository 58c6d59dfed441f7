# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Rollouts by vLLM in the training process against `transformers`' generate: the same model, prompts and tokens.

Both engines decode greedily and may not write the end token, so that every rollout has the same number of tokens. Each
measurement comes after one that is not counted; the arms take turns. `--size` builds a Qwen3-VL of a real size with
random weights; `tiny` is the detector that the package ships.

    python benchmarks/vllm_rollouts.py                                  # CPU
    python benchmarks/vllm_rollouts.py --size 2b --images 32 --tokens 512 --image_size 896   # GPU
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from machine import cpu_model
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.generation import PromptBuilder, SamplingConfig, TransformersEngine, VLLMConfig
from coordexp_trl.tiny import build_tiny_config, build_tiny_processor, build_tiny_tokenizer, detector_path

# hidden size, intermediate size, layers, attention heads, tied head: Qwen3-VL's own
SIZES = {"2b": (2048, 6144, 28, 16, True), "4b": (2560, 9728, 36, 32, True)}
VISION = {
    "2b": {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "num_heads": 16, "out_hidden_size": 2048},
    "4b": {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "num_heads": 16, "out_hidden_size": 2560},
}
VOCABULARY = 152_670


def write_checkpoint(folder: Path, size: str) -> None:
    """Random weights: the speed does not depend on them."""
    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(tokenizer)
    hidden, intermediate, layers, heads, tied = SIZES[size]
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, intermediate, layers
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = heads, 8, 128
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [24, 20, 20], "rope_theta": 5_000_000}
    text.vocab_size, text.max_position_embeddings = VOCABULARY, 32_768
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    for name, value in VISION[size].items():
        setattr(vision, name, value)
    vision.deepstack_visual_indexes, vision.num_position_embeddings = [5, 11, 17], 2304
    config.dtype = text.dtype = vision.dtype = torch.bfloat16
    with torch.device("cuda"):
        model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    build_tiny_processor(tokenizer).save_pretrained(folder)


def seconds(work) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", *SIZES), default="tiny")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=128, help="side of the square images, in pixels")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each rollout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gpu_memory_utilization", type=float, default=0.4)
    args = parser.parse_args()

    cpu = not torch.cuda.is_available()
    if cpu and args.size != "tiny":
        parser.error(f"--size {args.size} needs a GPU.")
    if cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import __version__ as vllm_version

    from coordexp_trl.generation.vllm_engine import VLLMEngine

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = detector_path() if args.size == "tiny" else folder
        if args.size != "tiny":
            write_checkpoint(Path(folder), args.size)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32 if args.size == "tiny" else torch.bfloat16
        )
        model = model.eval().to("cpu" if cpu else "cuda")
        processor = AutoProcessor.from_pretrained(checkpoint)
        builder = PromptBuilder(processor, max_pixels=max(args.image_size**2, 65_536))
        vocabulary, tokenizer = CoordVocabulary.from_tokenizer(processor.tokenizer), processor.tokenizer
        random = np.random.default_rng(0)
        shape = (args.image_size, args.image_size, 3)
        prompts = builder([Image.fromarray(random.integers(0, 256, shape, np.uint8)) for _ in range(args.images)])
        placeholders = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        unreachable = [tokenizer.eos_token_id]
        hf = TransformersEngine(
            lambda: nullcontext(model),
            eos_token_ids=unreachable,
            pad_token_id=tokenizer.pad_token_id,
            image_token_id=placeholders[0],
            suppress_tokens=[*placeholders, *unreachable],
            coord_ids=vocabulary.ids,
        )
        vllm = VLLMEngine(
            VLLMConfig(
                use_vllm=True,
                vllm_dtype=str(model.dtype).removeprefix("torch."),
                vllm_enforce_eager=cpu,
                vllm_gpu_memory_utilization=args.gpu_memory_utilization,
            ),
            model,
            Accelerator(cpu=cpu),
            processor,
            restore_image=builder.image,
            eos_token_ids=unreachable,
            image_token_id=placeholders[0],
            suppress_tokens=[*placeholders, *unreachable],
            coord_ids=vocabulary.ids,
            max_model_length=len(prompts[0].ids) + args.tokens,
            max_num_seqs=args.images,
            seed=0,
        )
        sampling = SamplingConfig(max_completion_length=args.tokens)
        times = {"transformers": [], "vllm": [], "sync": []}
        with torch.no_grad():
            for repeat in range(args.repeats + 1):
                measured = {
                    "sync": seconds(lambda: vllm.sync(model)),
                    "transformers": seconds(lambda: hf.generate(prompts, sampling)),
                    "vllm": seconds(lambda: vllm.generate(prompts, sampling)),
                }
                for name, value in measured.items():
                    times[name] += [value] if repeat else []
        same = [
            a.completion_ids == b.completion_ids
            for a, b in zip(hf.generate(prompts, sampling), vllm.generate(prompts, sampling), strict=True)
        ]
    device = f"{cpu_model()}, {os.cpu_count()} cores" if cpu else torch.cuda.get_device_name()
    print(
        f"{args.size}, {model.num_parameters() / 1e6:.1f} M parameters, {model.dtype}, {args.images} images of "
        f"{args.image_size} x {args.image_size} ({len(prompts[0].ids)} prompt tokens), {args.tokens} new tokens each; "
        f"{sum(same)} of {len(same)} rollouts equal.\n{device}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, vLLM {vllm_version}, medians of {args.repeats}.\n\n"
        "| engine | seconds | tokens/s | ratio |\n|---|---|---|---|"
    )
    reference = statistics.median(times["transformers"])
    for name in ("transformers", "vllm"):
        value = statistics.median(times[name])
        print(f"| {name} | {value:.2f} | {args.images * args.tokens / value:.0f} | {value / reference:.2f} |")
    print(f"| weight transfer | {statistics.median(times['sync']):.2f} | | |")
    if not cpu:
        print(f"\nPeak memory of the training process: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB.")


if __name__ == "__main__":
    main()

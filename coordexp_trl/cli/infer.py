# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`coordexp infer`: find objects in images."""

import argparse

from coordexp_trl.cli.parser import CommandParser, add_command
from coordexp_trl.tables import print_table


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    parser = add_command(commands, "infer", "find objects in images, with scores", _run)
    parser.add_argument("--model", metavar="DIR", help="checkpoint with coordinate tokens", required=True)
    parser.add_argument("--adapter", metavar="DIR", help="PEFT adapter for it")
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", required=True, help="a JSONL file of records, a folder, or image files"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the results", required=True)
    parser.add_argument("--image-root", metavar="DIR", help="where relative image paths start (default: beside data)")
    parser.add_argument("--limit", type=int, metavar="N", help="look at the first N images only")
    parser.add_argument(
        "--categories", metavar="COCO.json", help="take the ids of predictions_coco.json from this file"
    )
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out and count unusable images")
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run in the folder and begin anew")

    group = parser.add_argument_group("prompt")
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        help="instruction (default: that of the training, which the model's folder holds, else: "
        "Detect every object in the image. Give each one a short description and a bounding box.)",
    )
    group.add_argument("--system-prompt", metavar="TEXT", help="system message")
    group.add_argument("--protocol", choices=("tags", "json"), help="what it writes (default: as trained, else tags)")
    group.add_argument("--classes", metavar="A,B|FILE.txt", help="look for these only; @FILE or FILE.txt: one a line")
    group.add_argument(
        "--max-classes-per-prompt", type=int, metavar="N", help="one completion for every N classes (default: all)"
    )
    group.add_argument("--min-pixels", type=int, metavar="N", help="smallest area of a resized image")
    group.add_argument("--max-pixels", type=int, metavar="N", help="largest area of a resized image")

    group = parser.add_argument_group("decoding")
    group.add_argument("--max-completion-length", type=int, default=1024, metavar="N", help="most tokens to write")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus mass")
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="candidates; 0 keeps all")
    group.add_argument("--min-p", type=float, metavar="P", help="smallest probability relative to the likeliest")
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    group.add_argument("--num-beams", type=int, default=1, metavar="N", help="beam search, without scores")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of sampling")
    group.add_argument(
        "--expectation", action="store_true", help="coordinates are means of their distributions, not the bins written"
    )

    group = parser.add_argument_group("speed")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (default: 8, with vLLM 64)")
    group.add_argument("--num-workers", type=int, metavar="N", help="threads that decode images (default: up to 8)")
    group.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="dtype of the weights"
    )
    group.add_argument("--device", metavar="DEVICE", help="cuda, cuda:1, cpu (default: the GPU if there is one)")
    _add_vllm_options(parser)


def _add_vllm_options(parser: CommandParser) -> None:
    group = parser.add_argument_group("vLLM")
    group.add_argument("--use-vllm", action="store_true", help="generate with vLLM")
    group.add_argument(
        "--vllm-mode", choices=("colocate", "server"), default="colocate", help="in this process, or vllm serve"
    )
    group.add_argument("--vllm-server-base-url", metavar="URL", help="address of the server")
    group.add_argument("--vllm-server-host", default="0.0.0.0", metavar="HOST", help="host of the server")
    group.add_argument("--vllm-server-port", type=int, default=8000, metavar="PORT", help="port of the server")
    group.add_argument("--vllm-server-timeout", type=float, default=240.0, metavar="S", help="seconds to an answer")
    group.add_argument("--vllm-group-port", type=int, default=51216, metavar="PORT", help="port for adapter weights")
    group.add_argument("--vllm-gpu-memory-utilization", type=float, default=0.9, metavar="X", help="share of memory")
    group.add_argument("--vllm-max-model-length", type=int, metavar="N", help="context (default: as long as needed)")
    group.add_argument("--vllm-max-num-seqs", type=int, metavar="N", help="sequences at a time (default: the batch)")
    group.add_argument("--vllm-max-num-batched-tokens", type=int, metavar="N", help="tokens of one step")
    group.add_argument("--vllm-model-impl", choices=("vllm", "transformers"), default="vllm", help="implementation")
    group.add_argument("--vllm-enforce-eager", action="store_true", help="do without CUDA graphs")
    group.add_argument(
        "--vllm-top-logprobs", type=int, default=0, metavar="N", help="likeliest tokens behind std; 0 gives no std"
    )


def _run(args: argparse.Namespace) -> None:
    import dataclasses

    from coordexp_trl.checkpoints import PROMPTING, read_prompting
    from coordexp_trl.generation import DEFAULT_PROMPT, VLLMConfig
    from coordexp_trl.inference import InferenceConfig, run_inference
    from coordexp_trl.inference.class_prompts import read_classes

    trained = {"prompt": DEFAULT_PROMPT, "protocol": "tags"} | read_prompting(args.adapter, args.model)
    for name in PROMPTING:
        if getattr(args, name) is None:
            setattr(args, name, trained.get(name))
    args.classes = None if args.classes is None else read_classes(args.classes)
    args.vllm_dtype = args.dtype
    config = InferenceConfig(**_options(args, dataclasses.fields(InferenceConfig)))
    vllm = VLLMConfig(**_options(args, dataclasses.fields(VLLMConfig)))
    rest = ("image_root", "limit", "categories", "batch_size", "num_workers", "device", "skip_bad_images", "overwrite")
    summary = run_inference(
        args.model,
        args.data,
        args.out,
        args.adapter,
        config,
        vllm,
        **{name: getattr(args, name) for name in rest},
    )
    _report(summary)


def _options(args: argparse.Namespace, fields: tuple) -> dict:
    return {field.name: getattr(args, field.name) for field in fields if hasattr(args, field.name)}


def _report(summary) -> None:
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if summary.already_finished:
        print(
            f"{summary.out}: finished before with these settings, {summary.images} images and {summary.objects} "
            "objects. To begin anew, add --overwrite."
        )
        return
    print_table(summary.rows())
    print(f"wrote {summary.out}/predictions.jsonl, predictions_coco.json and run.json")

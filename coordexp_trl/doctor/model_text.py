# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of what becomes of text and images: special tokens, chat template, protocols, image sizes, decoding."""

from collections.abc import Iterator

from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.doctor.check import Check, fail, listed, ok, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.generation import PromptBuilder
from coordexp_trl.protocols import PROTOCOLS, get_protocol
from coordexp_trl.records import DetectionObject

_SAMPLE = (
    DetectionObject("black cat", bins=(110, 310, 410, 705)),
    DetectionObject("Größe 10\" × 'box'", bins=(0, 0, 999, 999)),
    DetectionObject("kite", bins=(1, 2, 300, 4, 500, 600)),
)


def check_special_tokens(checkpoint: Checkpoint) -> Iterator[Check]:
    """Do config.json, generation_config.json and the tokenizer name the same tokens?"""
    name, config, processor = "model.special_tokens", checkpoint.config, checkpoint.processor
    tokenizer = processor.tokenizer
    generation = checkpoint.read_json("generation_config.json") or {}
    wrong, doubtful = [], []
    for kind in ("image", "video"):
        token = getattr(processor, f"{kind}_token")
        ids = getattr(config, f"{kind}_token_id", None), tokenizer.convert_tokens_to_ids(token)
        if ids[0] != ids[1]:
            wrong.append(f"{kind}_token_id is {ids[0]} in config.json, {token} is {ids[1]} in the tokenizer")
    if tokenizer.eos_token_id is None:
        wrong.append("the tokenizer has no end token")
    for place, declared in (
        ("config.json", config.get_text_config().eos_token_id),
        ("generation_config.json", generation.get("eos_token_id")),
    ):
        declared = declared if isinstance(declared, list) else [declared]
        if declared != [None] and tokenizer.eos_token_id not in declared:
            doubtful.append(f"eos_token_id is {declared} in {place}, {tokenizer.eos_token_id} in the tokenizer")
    if tokenizer.pad_token_id is None:
        doubtful.append("the tokenizer has no padding token; the trainers take the end token")
    elif (declared := generation.get("pad_token_id", tokenizer.pad_token_id)) != tokenizer.pad_token_id:
        doubtful.append(
            f"pad_token_id is {declared} in generation_config.json, {tokenizer.pad_token_id} in the tokenizer"
        )
    if wrong:
        yield fail(name, listed(wrong + doubtful), "Use config.json and tokenizer of the same checkpoint.")
    elif doubtful:
        yield warn(
            name,
            listed(doubtful),
            "The trainers go by the tokenizer, other programs may not: write the tokenizer's ids into these files.",
        )
    else:
        yield ok(
            name,
            f"end {tokenizer.eos_token!r} {tokenizer.eos_token_id}, padding {tokenizer.pad_token!r} "
            f"{tokenizer.pad_token_id}, image {config.image_token_id}, video {config.video_token_id}",
        )


def check_chat_template(checkpoint: Checkpoint) -> Iterator[Check]:
    """The prompt of one picture: one placeholder in the text, as many image tokens as the processor announces."""
    name = "model.chat_template"
    try:
        prompts = PromptBuilder(checkpoint.processor)
    except ValueError as error:
        yield fail(name, str(error), "Take the chat template of the original model (chat_template.jinja).")
        return
    image, _ = draw_shapes(seed=0, index=0, image_size=128)
    (prompt,) = prompts([image])
    (expected,) = prompts.lengths([image.size])
    marks = prompt.ids.count(checkpoint.processor.image_token_id)
    patches = int(prompt.image_grid_thw.prod()) // checkpoint.processor.image_processor.merge_size**2
    if len(prompt.ids) != expected or marks != patches:
        yield fail(
            name,
            f"a picture of 128 x 128 gives {len(prompt.ids)} tokens ({marks} of the image), expected {expected} "
            f"({patches} of the image)",
            "Processor and chat template do not belong together: take both of the original model.",
        )
    else:
        yield ok(name, f"one image placeholder; 128 x 128 pixels and the default prompt take {len(prompt.ids)} tokens")


def check_image_size(checkpoint: Checkpoint) -> Iterator[Check]:
    """Size limits and patches of the image processor, against the model."""
    name, config = "model.image_size", checkpoint.config
    processor, vision = checkpoint.processor.image_processor, config.vision_config
    pairs = {
        "patch_size": (processor.patch_size, vision.patch_size),
        "merge_size": (processor.merge_size, vision.spatial_merge_size),
        "temporal_patch_size": (processor.temporal_patch_size, vision.temporal_patch_size),
    }
    different = [f"{key} is {a}, the model's {b}" for key, (a, b) in pairs.items() if a != b]
    if different:
        yield fail(name, listed(different), "Use the processor of the original model.")
        return
    limits = PromptBuilder(checkpoint.processor).images_kwargs
    low, high = limits["min_pixels"], limits["max_pixels"]
    side = processor.patch_size * processor.merge_size
    tokens, context = high // side**2, config.get_text_config().max_position_embeddings
    found = f"images have {low} to {high} pixels, {side} x {side} a token: at most {tokens} tokens"
    if tokens >= context:
        yield warn(name, f"{found}, the context is {context}", "Set max_pixels lower in training and inference.")
    else:
        yield ok(name, found)


def check_round_trip(checkpoint: Checkpoint) -> Iterator[Check]:
    """Are objects that are written and tokenised read back as they were, in every protocol?"""
    name, lengths = "model.round_trip", []
    for title in PROTOCOLS:
        try:
            protocol = get_protocol(title, checkpoint.tokenizer, checkpoint.vocabulary)
        except ValueError as error:
            yield fail(name, str(error), "Use the tokenizer of a Qwen-VL model, with tokens of coordexp expand-vocab.")
            return
        ids = protocol.encode(_SAMPLE)
        text = checkpoint.tokenizer.decode(ids, skip_special_tokens=False)
        again = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
        parsed = protocol.parse([*again, checkpoint.tokenizer.eos_token_id])
        read = [(item.desc, item.bins) for item in parsed.objects]
        if read != [(item.desc, item.bins) for item in _SAMPLE] or parsed.dropped:
            yield fail(
                name,
                f"{title}: {text!r} is read back as {read}",
                "The tokenizer changes text: use the one of a Qwen-VL model, with tokens of coordexp expand-vocab.",
            )
            return
        lengths.append(f"{title} {len(ids)} tokens")
    yield ok(name, f"{len(_SAMPLE)} objects written, tokenised and read back: {', '.join(lengths)}")


def check_generation(checkpoint: Checkpoint) -> Iterator[Check]:
    """Decoding options that other programs take from generation_config.json."""
    name, declared = "model.generation", checkpoint.read_json("generation_config.json")
    if declared is None:
        yield ok(name, "no generation_config.json: greedy")
        return
    traps = []
    if declared.get("repetition_penalty") not in (None, 1, 1.0):
        traps.append(f"repetition_penalty = {declared['repetition_penalty']} penalises coordinates that boxes share")
    if declared.get("do_sample"):
        options = [f"{key} = {declared[key]}" for key in ("temperature", "top_p", "top_k") if key in declared]
        traps.append(f"samples by default ({', '.join(['do_sample', *options])})")
    if declared.get("num_beams") not in (None, 1):
        traps.append(f"num_beams = {declared['num_beams']}")
    if traps:
        yield warn(
            name,
            f"generation_config.json: {listed(traps)}",
            "Trainers and `coordexp infer` set their own options. With model.generate pass do_sample=False and "
            "repetition_penalty=1.0, with vllm serve --generation-config vllm, or edit the file.",
        )
    else:
        yield ok(name, "greedy, no penalty")

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A tiny random Qwen3-VL with coordinate tokens, built in-process from a seed and without any download.

It has the real architecture (vision tower, DeepStack, interleaved M-RoPE), the real processor classes and the real
token layout in miniature, so that every code path of a full-size run can be exercised on a laptop.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from coordexp_trl.coordinates import COORD_TOKEN, WILDCARD_TOKEN

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# Qwen's own pre-tokenisation rule: it decides which structure characters may share a token ("><", "]},").
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen3-VL's chat format without its tool-calling branches.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type in ['image', 'image_url'] or 'image' in part or 'image_url' in part %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'video' or 'video' in part %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# The `tags` protocol's structure between two pieces of content, see `build_tiny_tokenizer`.
STRUCTURE_TOKENS = ["<obj><desc>", "</desc><box>", "</box></obj>"]

# Scenes of the tiny detector (options of `create_shapes`): crowded enough that free running matters.
DETECTOR_SCENES = {"image_size": 128, "min_objects": 4, "max_objects": 14, "max_overlap": 0.3}
DETECTOR_SEEDS = {"train": 0, "held_out": 1, "demo": 2, "easy": 3}

# The usual 0.02 suits widths of thousands: at a width of 128 it lets a random model see almost nothing of its image.
_INITIALIZER_RANGE = 0.06

# What the byte-pair merges are learnt from: the two protocols' structure and common short descriptions.
_CORPUS = [
    "<obj><desc>red circle</desc><box></box></obj><obj><desc>blue square</desc><box></box></obj>",
    '{"objects": [{"desc": "green triangle", "bbox_2d": [, , , ]}, {"desc": "white cat", "bbox_2d": [, , , ]}]}',
    "user\nassistant\nsystem\nDetect every object in the image. Give each one a description and a box.",
    "red green blue yellow white orange purple circle square triangle cat dog person RBC WBC Platelets",
]


def build_tiny_tokenizer(
    vocab_size: int = 640, num_bins: int = 1000, structure_tokens: bool = False
) -> Qwen2TokenizerFast:
    """
    Byte-level BPE tokenizer with Qwen's pre-tokenisation, chat tokens and the coordinate tokens.

    Args:
        vocab_size (`int`, *optional*, defaults to `640`):
            Upper bound of the text vocabulary (256 bytes plus merges), before special and coordinate tokens.
        num_bins (`int`, *optional*, defaults to `1000`):
            Number of coordinate tokens; `0` builds a tokenizer without any, as a plain Qwen3-VL has.
        structure_tokens (`bool`, *optional*, defaults to `False`):
            Whether each piece of the `tags` protocol's structure is one token, which halves the length of an object.

    Returns:
        [`~transformers.Qwen2TokenizerFast`]: The tokenizer, left-padding, with `<|im_end|>` as end of sequence.
    """
    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False), byte_level]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bpe.train_from_iterator(_CORPUS * 4, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=4096,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    if structure_tokens:
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in STRUCTURE_TOKENS])
    if num_bins:
        coords = [WILDCARD_TOKEN, *(COORD_TOKEN.format(k) for k in range(num_bins))]
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in coords])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_tiny_processor(
    tokenizer: Qwen2TokenizerFast, max_pixels: int = 512 * 512, merge_size: int = 2
) -> Qwen3VLProcessor:
    """
    The real Qwen3-VL processor (patches of 16 pixels) around `tokenizer`.

    Args:
        tokenizer ([`~transformers.Qwen2TokenizerFast`]):
            Tokenizer of the checkpoint.
        max_pixels (`int`, *optional*, defaults to `262144`):
            Images with more pixels are reduced by Qwen's smart resize.
        merge_size (`int`, *optional*, defaults to `2`):
            Side of the square of patches that becomes one image token.

    Returns:
        [`~transformers.Qwen3VLProcessor`]: The processor.
    """
    vision = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": merge_size,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": max_pixels}, **vision),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**vision),
        chat_template=CHAT_TEMPLATE,
    )


def build_tiny_config(
    tokenizer: Qwen2TokenizerFast,
    hidden_size: int = 128,
    num_layers: int = 4,
    vision_depth: int = 4,
    merge_size: int = 2,
    tie_word_embeddings: bool = True,
) -> Qwen3VLConfig:
    """
    Configuration of a Qwen3-VL of a few million parameters.

    Args:
        tokenizer ([`~transformers.Qwen2TokenizerFast`]):
            Tokenizer that fixes the vocabulary size: every embedding row has a token.
        hidden_size (`int`, *optional*, defaults to `128`):
            Width of the language model and of the vision tower.
        num_layers (`int`, *optional*, defaults to `4`):
            Number of decoder layers.
        vision_depth (`int`, *optional*, defaults to `4`):
            Number of vision blocks.
        merge_size (`int`, *optional*, defaults to `2`):
            Side of the square of patches that becomes one image token.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether head and embedding share their weight.

    Returns:
        [`~transformers.Qwen3VLConfig`]: The configuration.
    """
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "initializer_range": _INITIALIZER_RANGE,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            # vLLM's CPU attention needs a head size of at least 32
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": tie_word_embeddings,
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "initializer_range": _INITIALIZER_RANGE,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": merge_size,
            "temporal_patch_size": 2,
            "out_hidden_size": hidden_size,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(range(1, vision_depth, 2))[:2],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=tie_word_embeddings,
    )


def build_tiny_model(
    config: Qwen3VLConfig, tokenizer: Qwen2TokenizerFast, seed: int = 0, contrast_filters: bool = True
):
    """
    Randomly initialised float32 model; the same seed gives the same weights and leaves the global generator alone.

    Args:
        config ([`~transformers.Qwen3VLConfig`]):
            Configuration, see [`build_tiny_config`].
        tokenizer ([`~transformers.Qwen2TokenizerFast`]):
            Tokenizer whose end and padding tokens go into the generation configuration.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights.
        contrast_filters (`bool`, *optional*, defaults to `True`):
            Whether the patch filters answer to contrast rather than to brightness, which photographs share; plain
            random ones learn flat colours sooner.

    Returns:
        [`~transformers.Qwen3VLForConditionalGeneration`]: The model, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, unlike `torch.manual_seed`
        model = Qwen3VLForConditionalGeneration(config).float().eval()
    if contrast_filters:
        with torch.no_grad():
            filters = model.model.visual.patch_embed.proj.weight  # (hidden_size, channels, time, height, width)
            filters.sub_(0.9 * filters.mean((2, 3, 4), keepdim=True)).mul_(3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    return model


def create_tiny_checkpoint(
    path: str | Path,
    seed: int = 0,
    num_bins: int = 1000,
    structure_tokens: bool = False,
    contrast_filters: bool = True,
    **config_options,
) -> Path:
    """
    Writes a tiny random Qwen3-VL checkpoint (weights, tokenizer with coordinate tokens, processor).

    Args:
        path (`str` or `Path`):
            Folder to write; must not exist or be empty.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights: equal seeds give identical files.
        num_bins (`int`, *optional*, defaults to `1000`):
            Number of coordinate tokens; `0` writes a checkpoint without any.
        structure_tokens (`bool`, *optional*, defaults to `False`):
            See [`build_tiny_tokenizer`].
        contrast_filters (`bool`, *optional*, defaults to `True`):
            See [`build_tiny_model`].
        config_options:
            Passed to [`build_tiny_config`].

    Returns:
        `Path`: `path`.

    Raises:
        `ValueError`: If `path` exists and is not an empty folder.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"out={str(path)!r} already exists and is not an empty folder. Choose another or remove it.")
    tokenizer = build_tiny_tokenizer(num_bins=num_bins, structure_tokens=structure_tokens)
    config = build_tiny_config(tokenizer, **config_options)
    model = build_tiny_model(config, tokenizer, seed, contrast_filters)
    processor = build_tiny_processor(tokenizer, merge_size=config.vision_config.spatial_merge_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the destination and renamed, so that an interrupted run leaves no half checkpoint behind.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        partial = Path(scratch) / "checkpoint"
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        if path.exists():
            path.rmdir()
        shutil.move(partial, path)
    return path


def detector_path() -> Path:
    """
    The tiny detector that the package ships: a Qwen3-VL of 2 million parameters, trained from random weights by
    Stage-1 on pictures of shapes. Its recipes and training logs lie beside it.

    Returns:
        `Path`: Checkpoint folder, for `from_pretrained`.
    """
    return Path(__file__).with_name("assets") / "tiny_detector"

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Prompts: lengths without pixels, ids as the processor's own, and the check that generation and training agree."""

import numpy as np
import pytest
import torch
from PIL import Image

from coordexp_trl.generation import DEFAULT_PROMPT, PromptBuilder, check_prompt_ids
from coordexp_trl.generation.prompts import first_difference

# (width, height): tiny, odd, long, on and beside multiples of 32, around and beyond the limits
SIZES = [
    (1, 1),
    (10, 10),
    (31, 33),
    (32, 32),
    (33, 500),
    (48, 48),
    (63, 64),
    (80, 112),
    (100, 37),
    (256, 256),
    (257, 255),
    (500, 40),
    (511, 513),
    (512, 512),
    (640, 480),
    (900, 1200),
    (1000, 5),
]
LIMITS = [(None, None), (64 * 64, None), (None, 128 * 128), (96 * 96, 96 * 96), (4 * 1024, 12 * 1024)]


def blank(sizes) -> list[Image.Image]:
    return [Image.new("RGB", size, (90, 120, 40)) for size in sizes]


@pytest.mark.parametrize(("min_pixels", "max_pixels"), LIMITS)
def test_lengths_are_those_of_the_prompts(processor, min_pixels, max_pixels):
    builder = PromptBuilder(processor, min_pixels=min_pixels, max_pixels=max_pixels)
    image_token_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    prompts = builder(blank(SIZES))
    assert builder.lengths(SIZES) == [len(prompt.ids) for prompt in prompts]
    for prompt in prompts:
        patches = int(prompt.image_grid_thw.prod())
        assert prompt.image_grid_thw.shape == (1, 3)
        assert prompt.pixel_values.shape == (patches, 3 * 2 * 16 * 16)
        assert 4 * prompt.ids.count(image_token_id) == patches


@pytest.mark.parametrize(
    ("options", "grids"),
    [
        ({}, [(2, 2), (30, 40)]),  # as they are
        ({"max_pixels": 320 * 240}, [(2, 2), (14, 20)]),  # halved, then rounded to even numbers of patches
        ({"min_pixels": 64 * 64}, [(4, 4), (30, 40)]),
    ],
)
def test_limits_resize_images(processor, options, grids):
    builder = PromptBuilder(processor, **({"max_pixels": 640 * 480} | options))
    prompts = builder(blank([(32, 32), (640, 480)]))
    assert [tuple(prompt.image_grid_thw[0, 1:].tolist()) for prompt in prompts] == grids


def test_lengths_keep_order_and_repetitions(processor):
    builder = PromptBuilder(processor)
    sizes = [(640, 480), (32, 32), (640, 480), (480, 640), (64, 32)]
    assert builder.lengths(sizes) == [builder.lengths([size])[0] for size in sizes]
    assert builder.lengths([]) == []


def test_lengths_leave_the_processor_as_it_was(processor):
    before = [len(prompt.ids) for prompt in PromptBuilder(processor)(blank(SIZES[-4:]))]
    PromptBuilder(processor, max_pixels=64 * 64).lengths(SIZES)
    assert [len(prompt.ids) for prompt in PromptBuilder(processor)(blank(SIZES[-4:]))] == before


@pytest.mark.parametrize("system_prompt", [None, "You are a detector."])
@pytest.mark.parametrize(("min_pixels", "max_pixels"), [(None, None), (64 * 64, 128 * 128)])
def test_ids_are_those_of_the_chat_template(processor, images, system_prompt, min_pixels, max_pixels):
    text = "Find the <b>cats</b>."
    prompts = PromptBuilder(processor, text, system_prompt, min_pixels, max_pixels)(images)
    assert len({len(prompt.ids) for prompt in prompts}) > 1
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels} if min_pixels else {}
    for prompt, image in zip(prompts, images, strict=True):
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        if system_prompt:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
        expected = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"images_kwargs": limits},
        )
        assert prompt.ids == expected["input_ids"][0].tolist()
        torch.testing.assert_close(prompt.pixel_values, expected["pixel_values"], rtol=0, atol=0)
        assert torch.equal(prompt.image_grid_thw, expected["image_grid_thw"])


def test_a_batch_is_its_images_one_by_one(processor, images):
    builder = PromptBuilder(processor)
    for prompt, image in zip(builder(images), images, strict=True):
        (single,) = builder([image])
        assert prompt.ids == single.ids
        assert torch.equal(prompt.pixel_values, single.pixel_values)
        assert torch.equal(prompt.image_grid_thw, single.image_grid_thw)


def test_the_prompt_reads_as_a_chat(processor, images):
    (prompt,) = PromptBuilder(processor)(images[2:])
    text = processor.tokenizer.decode(prompt.ids)
    pads = "<|image_pad|>" * (int(prompt.image_grid_thw.prod()) // 4)
    assert text == (
        f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{DEFAULT_PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_options_reach_the_chat_template(processor, images):
    template = "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}"
    template += "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    template += "{% endfor %}{% endfor %}{{ '<think>' if enable_thinking else '' }}"
    texts = [
        PromptBuilder(processor, "Go.", chat_template_kwargs={"chat_template": template, "enable_thinking": on}).text
        for on in (True, False)
    ]
    assert texts == ["<|vision_start|><|image_pad|><|vision_end|>Go." + end for end in ("<think>", "")]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"prompt": "What is at <|image_pad|>?"}, 2),
        ({"system_prompt": "See <|image_pad|>."}, 2),
        ({"chat_template_kwargs": {"chat_template": "{{ messages[0].content[1].text }}"}}, 0),  # images are dropped
    ],
)
def test_other_than_one_placeholder_is_refused(processor, options, count):
    with pytest.raises(ValueError, match=rf"holds {count} image placeholders \(<\|image_pad\|>\), need exactly 1"):
        PromptBuilder(processor, **options)


def test_limits_the_wrong_way_round_are_refused(processor):
    with pytest.raises(ValueError, match=r"min_pixels=5000 exceeds max_pixels=4000.*min_pixels <= max_pixels"):
        PromptBuilder(processor, min_pixels=5000, max_pixels=4000)
    # against the processor's own limit
    with pytest.raises(ValueError, match=r"min_pixels=1000000 exceeds max_pixels=262144"):
        PromptBuilder(processor, min_pixels=1_000_000)


@pytest.mark.parametrize(
    ("expected", "actual", "position"),
    [
        ([], [], None),
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [9, 2, 3], 0),
        ([1, 2, 3], [1, 2, 9], 2),
        ([1, 2, 3], [1, 2], 2),  # a prefix differs at its end
        ([1, 2], [1, 2, 3], 2),
        ([], [1], 0),
        ([1, 9, 3], [1, 2], 1),  # the first difference, not the length
    ],
)
def test_first_difference(expected, actual, position):
    assert first_difference(expected, actual) == position


def test_equal_prompt_ids_pass(processor):
    check_prompt_ids([1, 2, 3], [1, 2, 3], processor.tokenizer, "train.jsonl:3")


def test_different_prompt_ids_are_named(processor):
    tokenizer = processor.tokenizer
    trained = tokenizer("a<|vision_start|><|image_pad|><|image_pad|><|vision_end|>b")["input_ids"]
    generated = tokenizer("a<|vision_start|><|image_pad|><|vision_end|>b")["input_ids"]
    with pytest.raises(ValueError) as caught:
        check_prompt_ids(trained, generated, tokenizer, "train.jsonl:3")
    message = str(caught.value)
    assert "prompt for train.jsonl:3 differs from the training prompt at token 3: lengths 5 and 6" in message
    assert "['a', '<|vision_start|>', '<|image_pad|>', '<|vision_end|>', 'b'] against" in message
    assert "against ['a', '<|vision_start|>', '<|image_pad|>', '<|image_pad|>', '<|vision_end|>', 'b']" in message
    assert "same processor" in message and "image size limits" in message


@pytest.mark.parametrize(("min_pixels", "max_pixels"), LIMITS)
def test_an_engine_gets_the_pixels_that_the_model_sees(processor, min_pixels, max_pixels):
    builder = PromptBuilder(processor, min_pixels=min_pixels, max_pixels=max_pixels)
    random = np.random.default_rng(0)
    sizes = [size for size in SIZES if max(size) < 200 * min(size)]
    pictures = [Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]
    for prompt in builder(pictures):
        image = builder.image(prompt)
        _, rows, columns = prompt.image_grid_thw[0].tolist()
        assert image.size == (16 * columns, 16 * rows)
        again = processor.image_processor(images=[image], do_resize=False, return_tensors="pt")
        assert torch.equal(again["image_grid_thw"], prompt.image_grid_thw)
        assert torch.equal(again["pixel_values"], prompt.pixel_values)

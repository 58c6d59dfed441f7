# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Tests of coordexp_trl.inference.class_prompts and of the options that use it."""

import pytest

from coordexp_trl.inference import InferenceConfig
from coordexp_trl.inference.class_prompts import class_chunks, class_instruction, read_classes


def test_names_from_text_and_from_a_file(tmp_path):
    assert read_classes("cat, traffic light,dog ") == ("cat", "traffic light", "dog")
    file = tmp_path / "names.txt"
    file.write_text("﻿cat\n\nknife, fork\n é \n", encoding="utf-8")
    assert read_classes(str(file)) == read_classes(f"@{file}") == ("cat", "knife, fork", "é")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "need at least one name"),
        (" , ", "need at least one name"),
        ("cat,Cat", "'cat' and 'Cat' are the same class"),
        ("traffic light,traffic_light", "are the same class"),
        ("@missing", r"classes = '@missing': cannot read the file 'missing'"),
        ("missing.txt", "cannot read the file 'missing.txt'"),
    ],
)
def test_lists_that_cannot_be_used(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_classes(text)


def test_chunks():
    assert class_chunks("abcde", 2) == [("a", "b"), ("c", "d"), ("e",)]
    assert class_chunks("abc", None) == class_chunks("abc", 9) == [("a", "b", "c")]


def test_the_instruction_names_the_classes():
    assert class_instruction("Detect.", None) == "Detect."
    assert class_instruction("Detect.", ["cat", "dog"]) == "Detect. Only these classes: cat, dog."
    assert class_instruction("Find {classes}!", ["cat", "dog"]) == "Find cat, dog!"


def test_one_instruction_for_every_chunk():
    config = InferenceConfig(prompt="Find {classes}.", classes=("a", "b", "c"), max_classes_per_prompt=2)
    assert config.instructions == ["Find a, b.", "Find c."]
    assert InferenceConfig(prompt="Find.").instructions == ["Find."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_classes_per_prompt": 2}, "need classes"),
        ({"prompt": "Find {classes}"}, "need classes"),
        ({"classes": ("a",), "max_classes_per_prompt": 0}, "max_classes_per_prompt = 0"),
        ({"classes": "abc"}, "need at least one name"),
        ({"classes": ("a", " ")}, "' ' is blank"),
        ({"expectation": True, "num_beams": 2}, "expectation needs the distributions"),
        ({"dtype": "int8"}, "dtype = 'int8': unknown"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"max_pixels": 0}, "max_pixels = 0"),
        ({"vllm_top_logprobs": -1}, "top_logprobs must be at least 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        InferenceConfig(**options)

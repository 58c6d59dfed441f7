# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Merging into the right base only, and keeping how the model was asked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from coordexp_trl.adapters.merge import merge_adapter
from coordexp_trl.adapters.rows import with_token_rows
from coordexp_trl.checkpoints import PROMPTING_FILE
from coordexp_trl.tiny import create_tiny_checkpoint

SMALL = {"hidden_size": 64, "num_layers": 2, "vision_depth": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return Path(create_tiny_checkpoint(tmp_path_factory.mktemp("merge") / "base", **SMALL))


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = with_token_rows(LoraConfig(r=2, target_modules=["q_proj"]), model, range(600, 700))
    model = get_peft_model(model, config)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_other_weights_of_the_same_shapes_are_refused(adapter, tmp_path):
    other = create_tiny_checkpoint(tmp_path / "other", seed=1, **SMALL)
    with pytest.raises(ValueError, match="the adapter was trained on .*base', and .* differs there. Leave --base out"):
        merge_adapter(adapter, tmp_path / "out", base=other, verify=False)
    assert not (tmp_path / "out").exists()


def test_a_copy_in_another_precision_is_the_same_base(base, adapter, tmp_path):
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(copy)
    report = merge_adapter(adapter, tmp_path / "out", base=copy, verify=False)
    assert report.base == copy


def test_a_base_that_is_gone_cannot_be_compared(base, adapter, tmp_path):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}))
    assert merge_adapter(adapter, tmp_path / "out", base=base, verify=False).base == base


def test_how_the_adapter_was_asked_goes_with_the_merged_model(base, adapter, tmp_path):
    (adapter / PROMPTING_FILE).write_text('{"prompt": "Detect."}')
    merge_adapter(adapter, tmp_path / "out", verify=False)
    assert (tmp_path / "out" / PROMPTING_FILE).read_text() == '{"prompt": "Detect."}'

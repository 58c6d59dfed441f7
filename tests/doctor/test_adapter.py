# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the doctor finds in adapters."""

import json
import shutil

import pytest
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from coordexp_trl.doctor.adapter import check_adapter
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.tiny import create_tiny_checkpoint

TARGETS = ["q_proj", "v_proj"]


@pytest.fixture
def save(tiny_checkpoint, tmp_path):
    """Saves a fresh adapter of the tiny checkpoint, as PEFT does."""

    def write(config):
        folder = tmp_path / "adapter"
        get_peft_model(AutoModelForImageTextToText.from_pretrained(tiny_checkpoint), config).save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def ids(tiny_checkpoint):
    return Checkpoint(tiny_checkpoint).vocabulary.ids.tolist()


def examined(folder, by_name, base=None):
    return by_name(check_adapter(str(folder), base and Checkpoint(base)))


def problems(checks):
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


@pytest.mark.parametrize("named", [True, False])
def test_plain_lora(save, by_name, tiny_checkpoint, named):
    checks = examined(save(LoraConfig(r=4, target_modules=TARGETS)), by_name, tiny_checkpoint if named else None)
    assert problems(checks) == {}
    assert set(checks) == {f"adapter.{name}" for name in ("files", "base", "modules", "token_rows", "serving")}
    assert checks["adapter.files"].message.startswith("LORA, rank 4, ")
    assert checks["adapter.base"].message == str(tiny_checkpoint)
    assert checks["adapter.token_rows"].message.startswith("no rows of tokens are trained")


def test_rows_of_coordinate_tokens(save, by_name, ids):
    config = LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices={"embed_tokens": ids})
    checks = examined(save(config), by_name)
    assert problems(checks) == {"adapter.serving": "warn"}
    assert checks["adapter.token_rows"].message == "embed_tokens: rows of 1000 of 1000 coordinate tokens are trained"
    assert "it trains rows of embed_tokens" in checks["adapter.serving"].message


def test_rows_alone(save, by_name, ids):
    checks = examined(save(TrainableTokensConfig(token_indices=ids)), by_name)
    assert problems(checks) == {"adapter.serving": "warn"}
    assert checks["adapter.files"].message.startswith("TRAINABLE_TOKENS, ")


@pytest.mark.parametrize(("shift", "message"), [(1, "and of 1 other tokens"), (0, "rows of 999 of 1000")])
def test_rows_of_other_tokens(save, by_name, ids, shift, message):
    rows = [k - 1 for k in ids] if shift else ids[:-1]
    config = LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices={"embed_tokens": rows})
    check = examined(save(config), by_name)["adapter.token_rows"]
    assert check.status == "warn" and message in check.message and "another tokenizer" in check.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save holds embed_tokens, lm_head"),
        ({"use_dora": True}, "it uses DoRA"),
    ],
)
def test_what_vllm_does_not_load(save, by_name, options, message):
    checks = examined(save(LoraConfig(r=4, target_modules=TARGETS, **options)), by_name)
    assert problems(checks) == {"adapter.serving": "warn"}
    assert message in checks["adapter.serving"].message and "Merge it" in checks["adapter.serving"].remedy
    if "modules_to_save" in options:
        assert checks["adapter.token_rows"].message == (
            "all rows are trained (modules_to_save: embed_tokens, lm_head)"
        )
        assert "trainable_token_indices" in checks["adapter.serving"].remedy


def test_rows_and_a_base_without_coordinate_tokens(save, by_name, ids, tmp_path):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0)
    config = LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices={"embed_tokens": ids})
    check = examined(save(config), by_name, plain)["adapter.token_rows"]
    assert check.status == "fail" and "the base has none" in check.message


def test_another_base(save, by_name, tmp_path, ids):
    other = create_tiny_checkpoint(tmp_path / "other", hidden_size=64, num_layers=1)
    folder = save(LoraConfig(r=4, target_modules=TARGETS))
    checks = examined(folder, by_name, other)
    assert checks["adapter.base"].status == "warn" and str(other) in checks["adapter.base"].message
    found = checks["adapter.modules"]
    assert found.status == "fail" and "have no place in the base" in found.message and "another shape" in found.message


def test_targets_that_the_base_has_not(save, by_name):
    folder = save(LoraConfig(r=4, target_modules=TARGETS))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["query"]}))
    check = examined(folder, by_name)["adapter.modules"]
    assert check.status == "fail" and "query" in check.message and "trained on" in check.remedy


def edit_base(folder, value):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": value}))


def test_a_base_that_is_not_here(save, by_name, tmp_path, tiny_checkpoint):
    folder = save(LoraConfig(r=4, target_modules=TARGETS))
    edit_base(folder, str(tmp_path / "gone"))
    checks = examined(folder, by_name)
    assert problems(checks) == {"adapter.base": "fail", "adapter.skipped": "warn"}
    assert "gone" in checks["adapter.base"].message and "--model" in checks["adapter.base"].remedy
    checks = examined(folder, by_name, tiny_checkpoint)
    assert problems(checks) == {"adapter.base": "warn"}


def test_damaged_files(save, by_name, tmp_path):
    folder = save(LoraConfig(r=4, target_modules=TARGETS))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    check = examined(folder, by_name)["adapter.files"]
    assert check.status == "fail" and "adapter_model.safetensors is incomplete" in check.message
    weights.unlink()
    assert "adapter_model.safetensors is missing" in examined(folder, by_name)["adapter.files"].message
    (folder / "adapter_config.json").write_text("{")
    assert examined(folder, by_name, folder)["adapter.files"].status == "fail"
    shutil.rmtree(folder)
    check = examined(folder, by_name)["adapter.files"]
    assert check.status == "fail" and "is not an adapter" in check.message

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Options of vLLM rollouts, refused where they cannot work; vLLM itself is not needed."""

import pytest

from coordexp_trl import CoordExpStage2Config
from coordexp_trl.generation import SamplingConfig, check_vllm_sampling, vllm_config


def config(tmp_path, **options):
    return CoordExpStage2Config(output_dir=str(tmp_path), use_cpu=True, bf16=False, use_vllm=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vllm_mode": "remote"}, "vllm_mode='remote' is not known.*'colocate', 'server'"),
        ({"parity_check_steps": -2}, "parity_check_steps must be -1, 0 or positive, got -2"),
        ({"parity_max_bins": -1.0}, "parity_max_bins must not be negative, got -1.0"),
        ({"vllm_gpu_memory_utilization": 1.5}, r"vllm_gpu_memory_utilization must be in \(0, 1\], got 1.5"),
        ({"vllm_server_timeout": 0.0}, "vllm_server_timeout must be positive, got 0.0"),
        ({"vllm_max_model_length": 0}, "vllm_max_model_length must be positive, got 0"),
        ({"vllm_tensor_parallel_size": 0}, "vllm_tensor_parallel_size must be positive, got 0"),
        ({"num_beams": 2}, "num_beams=2 is not available with use_vllm"),
        ({"generation_kwargs": {"seed": 1}, "temperature": 1.0}, r"generation_kwargs\['seed'\] is not available"),
        ({"generation_kwargs": {"n": 2}, "temperature": 1.0}, r"generation_kwargs\['n'\].*Use num_generations"),
    ],
)
def test_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_beams_are_fine_without_vllm(tmp_path):
    CoordExpStage2Config(output_dir=str(tmp_path), use_cpu=True, bf16=False, num_beams=2)


def test_address(tmp_path):
    assert config(tmp_path, vllm_server_host="a", vllm_server_port=1).vllm_server_url == "http://a:1"
    assert config(tmp_path, vllm_server_base_url="http://b/c").vllm_server_url == "http://b/c"


def test_dictionaries_are_read_from_text(tmp_path):
    options = config(tmp_path, vllm_limit_mm_per_prompt='{"image": 2}', vllm_mm_processor_kwargs='{"do_resize": true}')
    assert options.vllm_limit_mm_per_prompt == {"image": 2}
    assert options.vllm_mm_processor_kwargs == {"do_resize": True}


def test_plain_sampling_is_accepted():
    check_vllm_sampling(SamplingConfig(temperature=1.0, num_generations=4, generation_kwargs={"stop_token_ids": [3]}))


def test_missing_vllm(monkeypatch):
    monkeypatch.setattr(vllm_config, "is_vllm_available", lambda: False)
    with pytest.raises(ValueError, match=r'not installed: pip install "coordexp-trl\[vllm\]"'):
        vllm_config.require_vllm()


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("version", "accepted"), [("0.31.0+cpu", True), ("0.22.0", True), ("0.9.1", False), ("0.99", False)]
)
def test_vllm_version(monkeypatch, version, accepted):
    monkeypatch.setattr("vllm.__version__", version)
    if accepted:
        vllm_config.require_vllm()
    else:
        with pytest.raises(ValueError, match=f"version {version} is installed"):
            vllm_config.require_vllm()

# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Options of rollouts by vLLM."""

from dataclasses import dataclass, field
from importlib.metadata import requires
from typing import Any

from packaging.requirements import Requirement
from trl.import_utils import is_vllm_available

from coordexp_trl.generation.base import SamplingConfig

VLLM_MODES = ("colocate", "server")


@dataclass
class VLLMConfig:
    r"""
    Options of rollouts by vLLM; a mixin for subclasses of [`~transformers.TrainingArguments`]. Names and defaults are
    TRL's where TRL has the option.

    Parameters:
        > Parameters that control vLLM

        use_vllm (`bool`, *optional*, defaults to `False`):
            Whether vLLM makes the rollouts.
        vllm_mode (`str`, *optional*, defaults to `"colocate"`):
            `"colocate"` runs vLLM in the training process, `"server"` uses a server started with `vllm serve`.
        vllm_model_impl (`str`, *optional*, defaults to `"vllm"`):
            Model implementation: `"vllm"` or `"transformers"`.
        parity_check_steps (`int`, *optional*, defaults to `0`):
            Optimizer steps between two checks that vLLM writes what the model in training would; `0` checks at the
            first generation only, `-1` never.
        parity_max_bins (`float`, *optional*, defaults to `10.0`):
            The run stops where the coordinates of the two differ by more bins on average.

        > Parameters that control the vLLM server (only used when `vllm_mode` is `"server"`)

        vllm_server_base_url (`str`, *optional*):
            Address such as `"http://localhost:8000"`; host and port are ignored then.
        vllm_server_host (`str`, *optional*, defaults to `"0.0.0.0"`):
            Host of the server.
        vllm_server_port (`int`, *optional*, defaults to `8000`):
            Port of the server.
        vllm_server_timeout (`float`, *optional*, defaults to `240.0`):
            Seconds within which the server must be up, and within which it must answer any later call.
        vllm_group_port (`int`, *optional*, defaults to `51216`):
            Port of the weight transfer.

        > Parameters that control colocated vLLM (only used when `vllm_mode` is `"colocate"`)

        vllm_gpu_memory_utilization (`float`, *optional*, defaults to `0.3`):
            Share of the GPU's memory for vLLM's weights and KV cache.
        vllm_max_model_length (`int`, *optional*):
            Context in tokens; by default the longest prompt of the data plus `max_completion_length`.
        vllm_max_num_seqs (`int`, *optional*):
            Sequences decoded at the same time; by default as many as one generation or evaluation batch has.
        vllm_max_num_batched_tokens (`int`, *optional*):
            Tokens of one vLLM step; by default 4096, or the context where that is longer.
        vllm_tensor_parallel_size (`int`, *optional*, defaults to `1`):
            GPUs that one copy of the model is spread over.
        vllm_enable_sleep_mode (`bool`, *optional*, defaults to `False`):
            Whether vLLM gives its memory back between generations.
        vllm_dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of vLLM's weights; `"auto"` takes the checkpoint's, or 16 bits where that is float32.
        vllm_enforce_eager (`bool`, *optional*, defaults to `False`):
            Whether to do without CUDA graphs.
        vllm_limit_mm_per_prompt (`dict[str, int]`, *optional*):
            Images and videos that a prompt may hold; one image by default.
        vllm_mm_processor_kwargs (`dict[str, Any]`, *optional*):
            Passed to vLLM's image processor. By default it resizes nothing: images arrive as the model in training
            sees them.
    """

    # Parameters that control vLLM
    use_vllm: bool = field(default=False, metadata={"help": "Whether vLLM makes the rollouts."})
    vllm_mode: str = field(
        default="colocate", metadata={"help": "colocate (in the training process) or server (vllm serve)."}
    )
    vllm_model_impl: str = field(default="vllm", metadata={"help": "Model implementation: vllm or transformers."})
    parity_check_steps: int = field(
        default=0,
        metadata={"help": "Optimizer steps between parity checks; 0 checks at the first generation only, -1 never."},
    )
    parity_max_bins: float = field(
        default=10.0, metadata={"help": "The run stops where coordinates differ by more bins on average."}
    )

    # Parameters that control the vLLM server
    vllm_server_base_url: str | None = field(
        default=None, metadata={"help": "Address of the server; host and port are ignored then."}
    )
    vllm_server_host: str = field(default="0.0.0.0", metadata={"help": "Host of the server."})
    vllm_server_port: int = field(default=8000, metadata={"help": "Port of the server."})
    vllm_server_timeout: float = field(
        default=240.0, metadata={"help": "Seconds within which the server must be up and answer any call."}
    )
    vllm_group_port: int = field(default=51216, metadata={"help": "Port of the weight transfer."})

    # Parameters that control colocated vLLM
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "Share of the GPU's memory for vLLM's weights and KV cache."}
    )
    vllm_max_model_length: int | None = field(
        default=None,
        metadata={"help": "Context in tokens; the longest prompt plus max_completion_length by default."},
    )
    vllm_max_num_seqs: int | None = field(
        default=None, metadata={"help": "Sequences decoded at the same time; those of one batch by default."}
    )
    vllm_max_num_batched_tokens: int | None = field(
        default=None, metadata={"help": "Tokens of one vLLM step; 4096 or the context by default."}
    )
    vllm_tensor_parallel_size: int = field(
        default=1, metadata={"help": "GPUs that one copy of the model is spread over."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "Whether vLLM gives its memory back between generations."}
    )
    vllm_dtype: str = field(
        default="auto", metadata={"help": "Dtype of vLLM's weights; auto: the checkpoint's, at most 16 bits."}
    )
    vllm_enforce_eager: bool = field(default=False, metadata={"help": "Whether to do without CUDA graphs."})
    vllm_limit_mm_per_prompt: dict[str, int] | str | None = field(
        default=None, metadata={"help": "Images and videos that a prompt may hold; one image by default."}
    )
    vllm_mm_processor_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Passed to vLLM's image processor; by default it resizes nothing."}
    )

    def check_vllm_options(self) -> None:
        """Raises a `ValueError` for an option that cannot be; for the `__post_init__` of subclasses."""
        if self.vllm_mode not in VLLM_MODES:
            raise ValueError(f"vllm_mode={self.vllm_mode!r} is not known. Choose one of 'colocate', 'server'.")
        if self.parity_check_steps < -1:
            raise ValueError(f"parity_check_steps must be -1, 0 or positive, got {self.parity_check_steps}.")
        if not self.parity_max_bins >= 0:
            raise ValueError(f"parity_max_bins must not be negative, got {self.parity_max_bins}.")
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ValueError(f"vllm_gpu_memory_utilization must be in (0, 1], got {self.vllm_gpu_memory_utilization}.")
        sizes = ("max_model_length", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size")
        for name in ("server_timeout", *sizes):
            value = getattr(self, f"vllm_{name}")
            if value is not None and value <= 0:
                raise ValueError(f"vllm_{name} must be positive, got {value}.")

    @property
    def vllm_server_url(self) -> str:
        """Address of the server."""
        return self.vllm_server_base_url or f"http://{self.vllm_server_host}:{self.vllm_server_port}"


def check_vllm_sampling(sampling: SamplingConfig) -> None:
    """
    Args:
        sampling ([`SamplingConfig`]):
            Decoding options.

    Raises:
        `ValueError`: If vLLM cannot decode so.
    """
    if sampling.num_beams > 1:
        raise ValueError(
            f"num_beams={sampling.num_beams} is not available with use_vllm: vLLM's beam search bans no tokens, and "
            "image placeholders must never be written. Set num_beams=1, or use_vllm=False."
        )
    for name, instead in (("n", "num_generations"), ("seed", "the trainer's seed: this one would repeat itself")):
        if name in sampling.generation_kwargs:
            raise ValueError(f"generation_kwargs[{name!r}] is not available with use_vllm. Use {instead}.")
    if sampling.coord_logits and not sampling.top_logprobs:
        raise ValueError("coord_logits is not available with use_vllm: vLLM returns log-probabilities only.")


def require_vllm() -> None:
    """
    Raises:
        `ValueError`: If vLLM is not installed, or in a version that this package does not work with.
    """
    if not is_vllm_available():
        raise ValueError('use_vllm=True needs vLLM, which is not installed: pip install "coordexp-trl[vllm]".')
    from vllm import __version__ as installed

    supported = next(
        requirement.specifier
        for requirement in map(Requirement, requires("coordexp-trl"))
        if requirement.name == "vllm"
    )
    if not supported.contains(installed.split("+")[0], prereleases=True):
        raise ValueError(
            f"use_vllm=True needs vLLM {supported}, version {installed} is installed: "
            'pip install "coordexp-trl[vllm]".'
        )

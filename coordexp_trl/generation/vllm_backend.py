# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""TRL's [`~trl.generation.vllm_generation.VLLMGeneration`] with the guards that detection needs.

TRL starts vLLM, talks to it and gathers sharded weights. What differs here, and why:

* LLM options that TRL leaves out or fixes (dtype, batch budget, multimodal limits) are passed on.
* Adapters are merged into copies, layer by layer: the trained weights are never touched, so nothing drifts in
  training and nothing must be undone when a transfer fails. Trained token rows are merged the same way.
* Every transfer resets the encoder cache too: vLLM keys it by the image alone, so a re-used image would be answered
  from the features of older vision weights.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.tensor import DTensor
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from coordexp_trl.generation.gloo_transfer import GlooServerClient
from coordexp_trl.generation.main_process import on_main_process
from coordexp_trl.generation.vllm_server import VLLMServerClient


class VLLMBackend(VLLMGeneration):
    """
    Args:
        llm_options (`dict[str, Any]`):
            Keyword arguments of [`~vllm.LLM`] that win over TRL's (`mode="colocate"`).
        check_server (`Callable[[VLLMServerClient], int]`):
            Called once the server is up, by the main process; returns its context in tokens, or raises if it serves
            another model (`mode="server"`).
        sends_weights (`bool`):
            Whether weights will be sent; without it a server needs no weight transfer.
        kwargs:
            See [`~trl.generation.vllm_generation.VLLMGeneration`].
    """

    def __init__(
        self,
        llm_options: dict[str, Any],
        check_server: Callable[[VLLMServerClient], int],
        sends_weights: bool,
        **kwargs: Any,
    ):
        self.llm_options = llm_options
        self.sends_weights = sends_weights
        self.check_server = check_server
        self.server_context: int | None = None
        self._dtypes: list[torch.dtype] | None = None  # of the announced weights
        super().__init__(**kwargs)

    def _init_vllm(self) -> None:
        if is_peft_model(self.model) and self._dist.fsdp_version == 2:
            raise ValueError(
                "use_vllm=True with adapters does not work under FSDP2: sharded weights cannot be merged into copies. "
                "Launch with recipes/accelerate/ddp.yaml or zero2.yaml, or set use_vllm=False."
            )
        if self.mode == "server":
            self.vllm_client = None  # of the main process
            self.server_context = on_main_process(self.accelerator, self._connect)
            return
        llm = vllm_generation.LLM
        # TRL names the class that it builds at module level, and takes no options for it
        vllm_generation.LLM = lambda **options: llm(**{**options, **self.llm_options})
        try:
            super()._init_vllm()
        finally:
            vllm_generation.LLM = llm

    def _connect(self) -> int:
        without_nccl = self.sends_weights and self.accelerator.device.type == "cpu"
        client = GlooServerClient if without_nccl else VLLMServerClient
        self.vllm_client = client(self.server_base_url, self.group_port, self.server_timeout)
        context = self.check_server(self.vllm_client)
        if self.sends_weights:
            self.vllm_client.init_communicator(device=self.accelerator.device)
        return context

    def sync_weights(self) -> None:
        """Gives vLLM the current weights and makes it forget what older ones computed."""
        if self.mode == "colocate":
            super().sync_weights()  # resets the prefix cache
            self.llm.llm_engine.reset_encoder_cache()
            return
        dtypes = [parameter.dtype for parameter in self.model.parameters()]
        if self._dtypes != dtypes:  # evaluation in 16 bits changes them
            self._dtypes = dtypes
            self._weight_metadata = [
                (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
                for name, weight in self._iter_named_params()
            ]
        weights = self._iter_named_params()
        if not self.accelerator.is_main_process:
            self._take_part(weights)
        on_main_process(self.accelerator, lambda: self._send(weights))

    def _send(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        try:
            self.vllm_client.update_named_params(self._weight_metadata, weights)
        finally:
            self._take_part(weights)
        self.vllm_client.reset_prefix_cache()
        self.vllm_client.reset_encoder_cache()

    @staticmethod
    def _take_part(weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Gathering shards is collective: a process that sends nothing, or failed to, takes part to the end."""
        for _ in weights:
            pass

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights under the names that vLLM loads, adapters merged."""
        if not is_peft_model(self.model) or self._dist.fsdp_version == 1:
            yield from super()._iter_named_params()
            return
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, BaseTunerLayer)}
        adapters = {
            id(parameter)
            for layer in layers.values()
            for name, parameter in layer.named_parameters()
            if not name.startswith("base_layer.")
        }
        for name, parameter in self.model.named_parameters():
            target = plain_name(name, self.model)
            if id(parameter) in adapters or target is None:
                continue
            owner, _, leaf = name.rpartition(".base_layer.")
            if owner in layers:
                with self._dist.gather_params(list(layers[owner].parameters())):
                    weight = merged_weights(layers[owner])[leaf]
                yield target, self._whole(weight)
            else:
                with self._dist.gather_params([parameter]):
                    yield target, self._whole(parameter.data)

    def _whole(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self.accelerator.device).full_tensor() if isinstance(weight, DTensor) else weight


def plain_name(name: str, model: PeftModel) -> str | None:
    """
    Args:
        name (`str`):
            Name of a parameter of an adapted model.
        model ([`~peft.PeftModel`]):
            The model.

    Returns:
        `str` or `None`: Its name in the model without adapters; `None` for a copy that is not in use.
    """
    if ".original_module." in name:
        return None
    name = name.removeprefix("base_model.model.").replace("_checkpoint_wrapped_module.", "")
    module, kept, rest = name.partition(".modules_to_save.")
    if kept:
        adapter, _, leaf = rest.partition(".")
        return f"{module}.{leaf}" if adapter in model.active_adapters else None
    return name.replace(".token_adapter.", ".").replace(".base_layer.", ".")


def merged_weights(layer: BaseTunerLayer) -> dict[str, torch.Tensor]:
    """
    Args:
        layer ([`~peft.tuners.tuners_utils.BaseTunerLayer`]):
            Layer with adapters.

    Returns:
        `dict[str, torch.Tensor]`: Copies of the base layer's parameters with the active adapters merged. The layer
        itself keeps its weights bit for bit, which merging and unmerging in place would not.
    """
    parameters = dict(layer.get_base_layer().named_parameters())
    kept = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.data = parameter.data.clone()
        layer.merge()
        merged = {name: parameter.data.clone() for name, parameter in parameters.items()}
        if layer.merged:
            layer.unmerge()
        return merged
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]

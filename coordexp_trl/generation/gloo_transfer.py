# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Weight transfer to a vLLM server without NCCL: the same HTTP protocol, one gloo broadcast a tensor.

It lets the whole server mode run where there is no GPU. The server side is a vLLM plugin (entry point
`vllm.general_plugins`), chosen with `--weight-transfer-config '{"backend": "gloo"}'`.
"""

from collections.abc import Iterable
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, ProcessGroup
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.utils.network_utils import get_ip

from coordexp_trl.generation.vllm_server import VLLMServerClient

BACKEND = "gloo"


def join_group(address: str, port: int, rank: int, world_size: int) -> ProcessGroup:
    """Returns the group of the trainer (rank 0) and the server's workers."""
    return stateless_init_torch_distributed_process_group(
        host=address, port=port, rank=rank, world_size=world_size, backend=BACKEND
    )


def broadcast(group: ProcessGroup, tensor: torch.Tensor, timeout: float | None = None) -> None:
    """Sends `tensor` from rank 0, or receives it in place; raises after `timeout` seconds."""
    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    if timeout is not None:
        options.timeout = timedelta(seconds=timeout)
    group.broadcast([tensor], options).wait()


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """The workers' side: NCCL's life cycle, gloo's data."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Joins the trainer's group."""
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank + init_info.rank_offset
        self.model_update_group = join_group(
            init_info.master_address, init_info.master_port, rank, init_info.world_size
        )

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receives and loads the announced tensors, one at a time."""
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            broadcast(self.model_update_group, weight)
            self.model.load_weights([(name, weight)])


class GlooServerClient(VLLMServerClient):
    """The trainer's side."""

    def init_communicator(self, device: torch.device | str | int = "cpu") -> None:
        """Opens the group that weights are sent in; the server must have been started with the gloo backend."""
        config = self.get_server_info()["weight_transfer_config"]
        if config is None or config["backend"] != BACKEND:
            raise ValueError(
                f"The server at {self.base_url} has weight_transfer_config={config}, but the trainer's weights are on "
                f'the CPU. Start it with --weight-transfer-config \'{{"backend": "{BACKEND}"}}\'.'
            )
        self.check_group_port()
        world_size = self.get_world_size() + 1
        address = get_ip() if self.host not in ("127.0.0.1", "localhost", "0.0.0.0") else "127.0.0.1"
        init_info = {
            "master_address": address,
            "master_port": self.group_port,
            "rank_offset": 1,
            "world_size": world_size,
            "packed": False,
        }
        with self._while_server_handles("init_weight_transfer_engine", {"init_info": init_info}):
            self.communicator = join_group(address, self.group_port, 0, world_size)

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterable[tuple[str, torch.Tensor]]
    ) -> None:
        """See [`~trl.generation.vllm_client.VLLMClient.update_named_params`]."""
        names, dtype_names, shapes = (list(field) for field in zip(*metadata, strict=True))
        self._start_weight_update()
        update_info = {"names": names, "dtype_names": dtype_names, "shapes": shapes}
        with self._while_server_handles("update_weights", {"update_info": update_info}):
            for _, tensor in named_params:
                broadcast(self.communicator, tensor.detach().cpu().contiguous(), self.timeout)
        self._finish_weight_update()

    def close_communicator(self) -> None:
        """Leaves the group."""
        self.communicator = None

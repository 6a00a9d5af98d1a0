"""Sharding: each process keeps its part of every weight, gradient and moment, with torch's `fully_shard` (FSDP2).

The weights of a block are gathered for its computation and then dropped (ZeRO-3; Rajbhandari et al. 2019,
arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277). accelerate starts the processes, but it shards only on
accelerators; `fully_shard` itself also runs on a CPU, where the tests use it.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from agfsync.errors import RecipeError
from agfsync.training.precision import ROUNDED
from agfsync.training.processes import Processes


def check_sharding(batch: int, count: int) -> None:
    """Check that `count` processes can train a sharded network on `batch` items per step.

    Raises:
        RecipeError: the processes would have different numbers of items, and wait for each other; or torch is too old.
    """
    if batch % count:
        raise RecipeError(
            f"training.fsdp needs as many pairs in each process: make training.batch {batch} a multiple of {count}"
        )
    if not hasattr(FSDPModule, "set_gradient_divide_factor"):
        raise RecipeError("training.fsdp needs torch 2.9 or later: pip install --upgrade torch, or leave it out")


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, and any other tensor unchanged; every process must make the same call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of `whole` if `like` is sharded, else `whole`; the processes exchange nothing."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def list_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of `network` that diffusers names as units, inner blocks before those that contain them."""
    names = {*(getattr(network, "_no_split_modules", None) or ()), *(getattr(network, "_repeated_blocks", None) or ())}
    blocks = [module for module in network.modules() if module is not network and type(module).__name__ in names]
    return blocks[::-1]


def shard_network(network: nn.Module, processes: Processes, precision: str) -> None:
    """Shard the weights of `network` in place, block by block; they move to the device of this process.

    Gathered weights are in `precision`, including norms and embeddings: they are rounded once and not at each use. The
    parts keep their dtype, and gradients are summed over the processes in float32.
    """
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    # Inputs stay float32: in bf16 timestep 999 would be 1000.
    policy = MixedPrecisionPolicy(ROUNDED.get(precision), torch.float32, cast_forward_inputs=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
    for module in [*list_blocks(network), network]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        sharded = cast(FSDPModule, module)
        # A sum and not a mean: the loss already divides by the number of rows of all processes.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


@dataclass(frozen=True, slots=True)
class ShardedNetwork:
    """A sharded network, and a copy of it without weights, which restores the ordinary network after the training."""

    network: nn.Module
    _empty: nn.Module

    @classmethod
    def shard(cls, network: nn.Module, processes: Processes, precision: str) -> Self:
        """Shard `network` in place."""
        weights = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
        empty = deepcopy(network, dict(weights))
        shard_network(network, processes, precision)
        return cls(network, empty)

    def make_whole(self, processes: Processes) -> None:
        """Restore the ordinary network in the first process, on the CPU; all processes must make the same call."""
        whole: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            weight = gather_tensor(parameter.detach())
            if processes.is_first:
                whole[name] = weight.cpu()
        if processes.is_first:
            self._empty.load_state_dict(whole, strict=False, assign=True)
            # In place, since the pipeline references the network; `fully_shard` has changed its class and hooks.
            self.network.__class__ = self._empty.__class__
            self.network.__dict__ = self._empty.to("cpu").__dict__

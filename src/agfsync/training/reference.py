"""The frozen model: a copy of the network, or the network itself with its earlier adapters or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from agfsync.models.execution import compile_blocks
from agfsync.training.lora import adapters_off
from agfsync.training.precision import ROUNDED
from agfsync.training.processes import Processes
from agfsync.training.sharding import shard_network

MULTIPLIED = (nn.Linear, nn.Conv2d)
"""Layers whose weights autocast rounds before it uses them."""


def round_frozen_layers(network: nn.Module, precision: str) -> None:
    """Store the weights of frozen layers in `precision`, "bf16" or "fp16", in half the memory.

    Autocast would round them in the same way in each step, so that predictions and gradients stay the same to the last
    bit. In "fp32" nothing is rounded.
    """
    for layer in network.modules() if precision in ROUNDED else ():
        is_plain = isinstance(layer, MULTIPLIED) and type(layer.weight) is nn.Parameter  # not quantized
        if is_plain and not any(p.requires_grad for p in layer.parameters()):
            layer.to(ROUNDED[precision])


class FrozenCopy:
    """A frozen copy of the network, for full fine-tuning. Create it before a checkpoint or a step changes the network.

    With `precision` "bf16" or "fp16" the copy stores the rounded weights that autocast would compute in each step, in
    half the memory. Its predictions are the same to the last bit, so that the DPO loss of an untrained network is
    log 2. The copy is compiled only with `is_compiled`, even if the network is compiled.
    """

    def __init__(self, network: nn.Module, precision: str, is_compiled: bool = False) -> None:
        self._network = deepcopy(network).requires_grad_(False).eval()
        round_frozen_layers(self._network, precision)
        if is_compiled:
            compile_blocks(self._network)

    def shard(self, processes: Processes, precision: str) -> None:
        """Shard the copy over the processes, like the trained network."""
        shard_network(self._network, processes, precision)

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        """Yield the frozen network; no gradient is recorded."""
        with torch.inference_mode():
            yield self._network


class AdaptersOff:
    """The network with its adapters disabled, for LoRA: bitwise equal to the base, without a copy of the network."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        """Yield the network with its adapters disabled; no gradient is recorded."""
        with adapters_off(self._network), torch.inference_mode():
            yield self._network


class AdaptersBefore:
    """The network with the current weights of its adapters, for a LoRA that is trained further, without a copy."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._before = [(each, each.detach().clone()) for each in network.parameters() if each.requires_grad]

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        """Yield the network with the earlier adapters; no gradient is recorded."""
        trained = [each.data for each, _ in self._before]
        for each, before in self._before:
            each.data = before
        try:
            with torch.inference_mode():
                yield self._network
        finally:
            for (each, _), now in zip(self._before, trained, strict=True):
                each.data = now

"""The frozen base, two ways: a copy of the network, or the network itself with its adapters off."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from agfsync.training.lora import adapters_off
from agfsync.training.precision import ROUNDED

MULTIPLIED = (nn.Linear, nn.Conv2d)
"""Layers whose weights autocast rounds before it uses them."""


class FrozenCopy:
    """For full fine-tuning. Made from the base before training or a checkpoint touches the network.

    With `precision` "bf16" or "fp16" it keeps the rounded weights that autocast would compute anew each step: the
    predictions are the same to the last bit, so that an untrained network's loss is log 2, in half the memory.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self._network = deepcopy(network).requires_grad_(False).eval()
        if precision in ROUNDED:
            for layer in self._network.modules():
                if isinstance(layer, MULTIPLIED):
                    layer.to(ROUNDED[precision])

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        with torch.inference_mode():
            yield self._network


class AdaptersOff:
    """For LoRA: the network as it was before its adapters, bitwise, and no second copy."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        with adapters_off(self._network), torch.inference_mode():
            yield self._network

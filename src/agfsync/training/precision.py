"""The precision and the attention kernel of training and of sampling in training; trained weights stay float32."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from agfsync.errors import RecipeError

ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which matrix products are computed in `precision`: "fp32", "bf16" or "fp16"."""
    if precision != "fp32" and precision not in ROUNDED:
        raise ValueError(f"precision is one of fp32, bf16, fp16, not {precision}")
    return torch.autocast(device.type, ROUNDED.get(precision), enabled=precision in ROUNDED)


def make_loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return the loss scaler, which keeps small gradients above 0 in fp16, and does nothing in fp32 and bf16.

    Raises:
        RecipeError: fp16 on a CPU, where it is slow, and bf16 takes no more memory.
    """
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("training.precision fp16 needs an accelerator: on a CPU set it to bf16 or fp32")
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def use_trainable_attention(device: torch.device) -> Iterator[None]:
    """Use the plain attention kernel on a CPU: the fused kernel's backward is slower (benchmarks/attention.py)."""
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def leave_no_trace(network: nn.Module, precision: str, device: torch.device) -> Iterator[None]:
    """Let `network` be sampled within the context without affecting the training.

    The network is in evaluation mode, records no gradient, and computes in `precision`, in which frozen layers may be
    stored. Afterwards its modes and the states of the global random number generators are restored.
    """
    training = [module for module in network.modules() if module.training]
    forward, own = network.forward, vars(network).get("forward")

    def forward_rounded(*arguments: Any, **named: Any) -> Any:
        with autocast(device, precision):
            return forward(*arguments, **named)

    states = random.getstate(), np.random.get_state()
    cards = [device] if device.type == "cuda" else []
    network.eval()
    network.forward = forward_rounded
    try:
        with torch.random.fork_rng(devices=cards), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if own is None:
            del network.forward
        else:
            network.forward = own
        for module in training:
            module.training = True

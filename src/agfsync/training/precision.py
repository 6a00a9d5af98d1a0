"""The precision and the attention kernel of training; the weights stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from agfsync.errors import RecipeError

ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which networks multiply in `precision`: "fp32", "bf16" or "fp16"."""
    if precision != "fp32" and precision not in ROUNDED:
        raise ValueError(f"precision is one of fp32, bf16, fp16, not {precision}")
    return torch.autocast(device.type, ROUNDED.get(precision), enabled=precision in ROUNDED)


def make_loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return the scaler of the loss: it keeps small gradients above 0 in fp16, and does nothing in fp32 and bf16.

    Raises:
        RecipeError: fp16 on a CPU, where it is slow and bf16 is as small.
    """
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("training.precision fp16 needs an accelerator: on a CPU set it to bf16 or fp32")
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def use_trainable_attention(device: torch.device) -> Iterator[None]:
    """Use the plain attention kernel on a CPU: the fused one's backward pass is slower (benchmarks/attention.py)."""
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield

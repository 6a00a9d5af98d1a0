"""Which attention kernel to train with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def trainable_attention(device: torch.device) -> Iterator[None]:
    """On a CPU the plain kernel: the fused one's backward pass takes longer there (see benchmarks/attention.py)."""
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield

"""How the network of a model runs: by which attention kernel, and compiled or not. Its weights have the same names."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch import nn

from agfsync.errors import ModelError
from agfsync.models.configuration import FLOWS, check_choices
from agfsync.models.loading import silence_libraries

VARIANTS = 64
"""the most compiled variants of a block: by shapes, with and without gradients, with adapters on and off"""


@dataclass(frozen=True, slots=True)
class Execution:
    """The way a network runs: `attention` is a backend of diffusers, `compile` has torch.compile compile its blocks.

    `offload`: a pipeline's networks take turns on the device in drawing. `quantization` is how its weights are stored.
    """

    attention: str | None = None
    compile: bool = False
    offload: bool = False
    quantization: str | None = None

    def list_changes(self) -> tuple[str, ...]:
        """Return what differs from the defaults and affects images, for a model's identity."""
        return tuple(filter(None, (self.attention, "compiled" if self.compile else None, self.quantization)))

    def prepare(self, type_: str, network: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Have `network`, of a model of the type `type_`, which multiplies in `dtype` on `device`, run so.

        Raises:
            ModelError: this machine can't.
        """
        if self.attention is not None:
            check_attention(type_, self.attention, device, dtype)
            # The context restores the global choice, which would also be other models'.
            with silence_libraries(), attention_backend(self.attention):
                network.set_attention_backend(self.attention)
        if self.compile:
            check_compiler(device)
            compile_blocks(network)


def check_attention(type_: str, name: str, device: torch.device, dtype: torch.dtype, *, training: bool = False) -> None:
    """Check that the attention of models of a type runs by diffusers' backend `name`, by running it on a few zeros.

    Raises:
        ModelError: the type has no choice, or the backend isn't there, doesn't run on `device` or in `dtype`, lacks a
            package, or, if `training`, a backward pass.
    """
    check_choices(type_, attention=name)
    known = [each.value for each in AttentionBackendName]
    if name not in known:
        raise ModelError(f"diffusers has no attention backend '{name}': there are {', '.join(known)}")
    try:
        with silence_libraries(), attention_backend(name):
            tokens = torch.zeros(1, 128, 2, 64, device=device, dtype=dtype, requires_grad=training)
            mask = torch.ones(1, 1, 1, 128, device=device, dtype=torch.bool) if FLOWS[type_].masks_text else None
            mixed = dispatch_attention_fn(tokens, tokens, tokens, mask)
            if training:
                mixed.sum().backward()
    except Exception as failure:  # each backend fails in its own way
        reason = " ".join(str(failure).split()).rstrip(".") or type(failure).__name__
        what = "train" if training else "draw"
        place = f"{device.type} in {str(dtype).removeprefix('torch.')}"
        raise ModelError(
            f"attention {name} can't {what} with {type_} on {place}: {reason}; leave it out for torch's own"
        ) from failure


def check_compiler(device: torch.device) -> None:
    """Check that torch.compile finds what it compiles with for `device`.

    Raises:
        ModelError: there is no C++ compiler (on a CPU), or no Triton (on CUDA).
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    lacking = ""
    if device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            lacking = "a C++ compiler: install g++"
    elif device.type == "cuda" and not has_triton():
        lacking = "the package triton: pip install triton"
    if lacking:
        raise ModelError(f"compile needs {lacking}, or set it to false")


def compile_blocks(network: nn.Module) -> None:
    """Compile the blocks that `network` repeats, or all of it if it names none, when they are first called.

    Blocks of a class share their code, so that one is compiled for all. It happens in place: names of weights, adapters
    and hooks stay.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    names = getattr(network, "_repeated_blocks", None) or getattr(network, "_no_split_modules", None) or ()
    for block in [each for each in network.modules() if type(each).__name__ in names] or [network]:
        block.compile()

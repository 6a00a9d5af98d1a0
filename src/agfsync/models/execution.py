"""How a model's network runs: its attention kernel, and compiled or not. The names of its weights don't change."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch import nn

from agfsync.errors import ModelError
from agfsync.models.configuration import FLOWS, check_choices
from agfsync.models.loading import silence_libraries

VARIANTS = 64
"""the most compiled variants of a block: for its shapes, with and without gradients, with adapters on and off"""


@dataclass(frozen=True, slots=True)
class Execution:
    """The options of running a network.

    `attention` is a backend of diffusers. With `compile`, torch.compile compiles its blocks. With `offload`, the
    networks of a pipeline take turns on the device while drawing. `quantization` is the storage format of its weights.
    """

    attention: str | None = None
    compile: bool = False
    offload: bool = False
    quantization: str | None = None

    def list_changes(self) -> tuple[str, ...]:
        """Return the settings that differ from the defaults and affect images, for a model's identity."""
        return tuple(filter(None, (self.attention, "compiled" if self.compile else None, self.quantization)))

    def prepare(self, type_: str, network: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Set `network`, of a model of the type `type_`, to run like this on `device`, multiplying in `dtype`.

        Raises:
            ModelError: this machine doesn't support it.
        """
        if self.attention is not None:
            check_attention(type_, self.attention, device, dtype)
            # The context restores the global choice, which would also affect other models.
            with silence_libraries(), attention_backend(self.attention):
                network.set_attention_backend(self.attention)
        if self.compile:
            check_compiler(device)
            compile_blocks(network)


def check_attention(type_: str, name: str, device: torch.device, dtype: torch.dtype, *, training: bool = False) -> None:
    """Check that diffusers' attention backend `name` works for models of a type, by running it on a few zeros.

    Raises:
        ModelError: the type has no choice of backends, or the backend doesn't exist, doesn't run on `device` or in
            `dtype`, needs a package that is missing, or, with `training`, has no backward pass.
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
    except Exception as failure:  # backends may raise any exception
        reason = " ".join(str(failure).split()).rstrip(".") or type(failure).__name__
        what = "train" if training else "draw"
        place = f"{device.type} in {str(dtype).removeprefix('torch.')}"
        raise ModelError(
            f"attention {name} can't {what} with {type_} on {place}: {reason}; leave it out for torch's own"
        ) from failure


def check_compiler(device: torch.device) -> None:
    """Check that torch.compile finds its compiler for `device`.

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
    """Compile the repeated blocks of `network` on their first call, or all of it if it declares no such blocks.

    Blocks of one class share their code, so it is compiled once for all. They are compiled in place: the names of
    weights, adapters and hooks don't change.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    names = getattr(network, "_repeated_blocks", None) or getattr(network, "_no_split_modules", None) or ()
    for block in [each for each in network.modules() if type(each).__name__ in names] or [network]:
        block.compile()

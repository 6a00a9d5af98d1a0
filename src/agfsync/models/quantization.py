"""Linear layers with frozen weights of 4 or 8 bits, by bitsandbytes (QLoRA, arXiv:2305.14314) or torchao.

The layers are replaced after the network is loaded. Diffusers' quantization configs replace them while loading a
folder; this also works for single files, for weights with LoRAs added, and for bitsandbytes on a CPU.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from agfsync.engine.packages import QUANTIZED_BY, require_package

_BLOCK = 64
"""how many 4-bit weights share one float32 scale"""


def quantize_network(network: nn.Module, kind: str, device: torch.device, dtype: torch.dtype) -> None:
    """Quantize the weights of all linear layers of `network`, except adapters', to `kind`; they multiply in `dtype`.

    The layers are moved to `device` one at a time, so that it never holds the whole unquantized network.

    Raises:
        RecipeError: the package of this kind is not installed.
    """
    require_package(QUANTIZED_BY[kind], f"model.quantization {kind}")
    quantize = _quantize_to_4_bits if QUANTIZED_BY[kind] == "bitsandbytes" else _quantize_to_8_bits
    for name in list_quantized(network):
        parent, _, child = name.rpartition(".")
        layer = network.get_submodule(name).to(device)
        setattr(network.get_submodule(parent), child, quantize(layer, kind, dtype))


def list_quantized(network: nn.Module) -> list[str]:
    """Return the names of the layers to quantize: all linear layers that aren't part of a LoRA."""
    return [name for name, each in network.named_modules() if type(each) is nn.Linear and ".lora_" not in name]


def count_saved_bytes(network: nn.Module, kind: str | None) -> float:
    """Return the bytes of memory that quantizing the weights of `network` saves; 0 if `kind` is None.

    >>> count_saved_bytes(nn.Linear(64, 2, bias=False, dtype=torch.bfloat16), "nf4")  # 256 - (64 + 8)
    184.0
    """
    if kind is None:
        return 0.0
    weights: list[Any] = [network.get_submodule(name).weight for name in list_quantized(network)]
    of_weight = 0.5 + 4 / _BLOCK if QUANTIZED_BY[kind] == "bitsandbytes" else 1.0
    return float(sum(each.nbytes - of_weight * each.numel() for each in weights))


def _quantize_to_4_bits(layer: Any, kind: str, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    has_bias, device = layer.bias is not None, layer.weight.device
    made = Linear4bit(layer.in_features, layer.out_features, has_bias, dtype, False, kind, device="meta")
    made.weight = Params4bit(layer.weight.detach(), False, blocksize=_BLOCK, quant_type=kind, compress_statistics=False)
    made.bias = layer.bias
    quantized: nn.Module = made.to(device)  # this quantizes the weights
    return quantized


def _quantize_to_8_bits(layer: nn.Module, kind: str, dtype: torch.dtype) -> nn.Module:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig())
    # Autocast has no effect on torchao's layers.
    layer.register_forward_pre_hook(partial(_cast_input, dtype=dtype))
    return layer


def _cast_input(layer: nn.Module, given: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return given[0].to(dtype), *given[1:]

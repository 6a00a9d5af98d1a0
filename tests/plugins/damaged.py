"""Files of weights with one fault, of the kinds that conversions and half-finished downloads leave."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FAULTS = ("dropped", "compiled", "renamed", "reshaped", "added")


def damage(tensors: dict[str, Tensor], key: str, fault: str) -> dict[str, Tensor]:
    """The tensors with this fault at `key`."""
    changed = dict(tensors)
    tensor = changed.pop(key)
    owner, _, leaf = key.rpartition(".")
    return {
        "dropped": changed,
        "compiled": changed | {f"_orig_mod.{key}": tensor},
        "renamed": changed | {f"{key}_": tensor},
        "reshaped": changed | {key: torch.zeros(*[side + 1 for side in tensor.shape])},
        "added": changed | {key: tensor, f"{owner}.lora_{leaf}": tensor.clone()},
    }[fault]


def damage_file(path: Path, to: Path, place: int, fault: str) -> str:
    """Write `path` with this fault at one of its weights `to` another file; the weight's name."""
    tensors = load_file(path)
    key = sorted(tensors)[place % len(tensors)]
    save_file(damage(tensors, key, fault), to, metadata={"format": "pt"})
    return key


def change_file(path: Path, amount: float = 0.5) -> None:
    """Make other weights of those in the file."""
    tensors = load_file(path)
    save_file({key: tensor * (1 + amount) for key, tensor in tensors.items()}, path, metadata={"format": "pt"})

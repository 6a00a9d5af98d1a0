"""In which numbers the networks compute; their weights stay float32."""

import torch

from agfsync.errors import RecipeError

ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which networks multiply in `precision`: "fp32", "bf16" or "fp16"."""
    if precision != "fp32" and precision not in ROUNDED:
        raise ValueError(f"precision is one of fp32, bf16, fp16, not {precision}")
    return torch.autocast(device.type, ROUNDED.get(precision), enabled=precision in ROUNDED)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """What scales the loss: small gradients are 0 in fp16. In the other precisions it leaves all as it is.

    Raises:
        RecipeError: fp16 on a CPU, where it is slow and bf16 has the same size.
    """
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError("training.precision fp16 needs an accelerator: on a CPU set it to bf16 or fp32")
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")

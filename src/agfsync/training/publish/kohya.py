"""A LoRA in the layout of kohya's sd-scripts, which ComfyUI, AUTOMATIC1111 and others read.

The matrices of a layer are `lora_down` and `lora_up` under its name in diffusers, with underscores for dots; its
strength is alpha / rank. Alpha is written, since programs that find none use either the rank or 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

ARCHITECTURES = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512", 2048: "stable-diffusion-xl-v1-base"}
"""The width of the text embeddings -> ModelSpec's name of the architecture."""
VELOCITY = {1024: "stable-diffusion-v2-768-v"}
SIDES = {"lora_A": "lora_down", "lora_B": "lora_up"}


def convert_to_kohya(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a LoRA by kohya's names; `weights` have peft's names, and are already multiplied by alpha / rank.

    Alpha is therefore each layer's rank, a float32 scalar: the strength is the same for programs that don't read it.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, side, _ = name.rsplit(".", 2)
        flat = "lora_unet_" + layer.replace(".", "_")
        named[f"{flat}.{SIDES[side]}.weight"] = tensor
        if side == "lora_A":
            named[f"{flat}.alpha"] = torch.tensor(float(len(tensor)))
    return named


def describe_lora(title: str, text_width: int | None, prediction_type: str, rank: int) -> dict[str, str]:
    """Return the metadata of the file: those of ModelSpec 1.0, and those that kohya's programs read.

    There is no date, so that a rerun writes the same file.
    """
    predicts_v = prediction_type == "v_prediction"
    known = ARCHITECTURES | (VELOCITY if predicts_v else {})
    architecture = known.get(text_width or 0, "stable-diffusion")
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if predicts_v else prediction_type,
        "modelspec.description": "Aligned with AI feedback by agfsync",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
    }

"""A pipeline in one file, by the original names of its weights, as model pages offer it."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

PLAIN = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def write_single_file(pipeline: Any, path: Path) -> Path:
    weights = _unet(pipeline.unet) | _vae(pipeline.vae)
    if hasattr(pipeline, "text_encoder_2"):
        weights |= _clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        weights |= _open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    else:
        weights |= _clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, path)
    return path


def _unet(unet: Any) -> dict[str, Tensor]:
    layers = unet.config.layers_per_block + 1
    names = {name: _unet_name(name, layers, unet.config.up_block_types) for name in unet.state_dict()}
    return {f"model.diffusion_model.{names[name]}": tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, layers: int, up_blocks: list[str]) -> str:
    for ours, theirs in PLAIN.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    match = re.match(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name)
    assert match
    side, kind, rest = match[1], match[3], match[5]
    block, layer = int(match[2] or 0), int(match[4])
    if kind == "resnets":
        part, _, leaf = rest.partition(".")
        rest = f"{RESNET[part]}.{leaf}"
    if side == "mid":
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{layers * (block + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{layers * (block + 1) - 1}.{2 if 'CrossAttn' in up_blocks[block] else 1}.{rest}"
    first, stem = (1, "input_blocks") if side == "down" else (0, "output_blocks")
    return f"{stem}.{layers * block + layer + first}.{0 if kind == 'resnets' else 1}.{rest}"


def _vae(vae: Any) -> dict[str, Tensor]:
    """The decoder's blocks are counted from the other end, and its attention is of 1x1 convolutions."""
    weights, last = {}, len(vae.config.up_block_types) - 1
    for name, tensor in vae.state_dict().items():
        turned = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{last - int(match[1])}", name)
        attends = ".attentions." in name and tensor.dim() == 2
        weights[f"first_stage_model.{_renamed(turned, VAE)}"] = tensor[:, :, None, None] if attends else tensor
    return weights


def _clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{n.removeprefix('text_model.')}": t for n, t in encoder.state_dict().items()}


def _open_clip(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """With queries, keys and values in one matrix, and the projection transposed."""
    ours = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    theirs = {"text_projection": ours.pop("text_projection.weight").T}
    for name in [name for name in ours if "q_proj" in name]:
        parts = [ours.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        theirs[_renamed(name.replace(".q_proj.", ".in_proj_"), OPEN_CLIP)] = torch.cat(parts)
    return {prefix + name: t for name, t in (theirs | {_renamed(n, OPEN_CLIP): t for n, t in ours.items()}).items()}


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name

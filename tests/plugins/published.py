"""Tensors by the names under which they are published, written from the side of the publishers' code.

Names and order are those of open_clip's `CLIP` module, and of ImageReward's BLIP: a `BertModel` and timm's vision
transformer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]


def as_open_clip(state: Mapping[str, Tensor]) -> State:
    """A `CLIPModel`'s state as open_clip's."""
    text, vision = "text_model.", "vision_model."
    blocks = {key.split(".layers.")[0] + f".layers.{key.split('.')[3]}" for key in state if ".encoder.layers." in key}
    found: State = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "positional_embedding": state[f"{text}embeddings.position_embedding.weight"],
        "token_embedding.weight": state[f"{text}embeddings.token_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "visual.class_embedding": state[f"{vision}embeddings.class_embedding"],
        "visual.positional_embedding": state[f"{vision}embeddings.position_embedding.weight"],
        "visual.conv1.weight": state[f"{vision}embeddings.patch_embedding.weight"],
    }
    for end in ("weight", "bias"):
        found[f"ln_final.{end}"] = state[f"{text}final_layer_norm.{end}"]
        found[f"visual.ln_pre.{end}"] = state[f"{vision}pre_layrnorm.{end}"]
        found[f"visual.ln_post.{end}"] = state[f"{vision}post_layernorm.{end}"]
        for block in blocks:
            tower = "visual." if block.startswith(vision) else ""
            ours = f"{tower}transformer.resblocks.{block.rpartition('.')[2]}"
            thirds = [state[f"{block}.self_attn.{letter}_proj.{end}"] for letter in "qkv"]
            found[f"{ours}.attn.in_proj_{end}"] = torch.cat(thirds)
            found[f"{ours}.attn.out_proj.{end}"] = state[f"{block}.self_attn.out_proj.{end}"]
            found[f"{ours}.ln_1.{end}"] = state[f"{block}.layer_norm1.{end}"]
            found[f"{ours}.ln_2.{end}"] = state[f"{block}.layer_norm2.{end}"]
            found[f"{ours}.mlp.c_fc.{end}"] = state[f"{block}.mlp.fc1.{end}"]
            found[f"{ours}.mlp.c_proj.{end}"] = state[f"{block}.mlp.fc2.{end}"]
    return found


def as_imagereward(state: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> State:
    """A `BlipForImageTextRetrieval`'s state and its head's as ImageReward's."""
    names = {
        "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
        "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
        "vision_model.embeddings.patch_embedding": "visual_encoder.patch_embed.proj",
        "vision_model.encoder.layers": "visual_encoder.blocks",
        "vision_model.post_layernorm": "visual_encoder.norm",
        ".layer_norm1.": ".norm1.",
        ".layer_norm2.": ".norm2.",
        ".self_attn.qkv.": ".attn.qkv.",
        ".self_attn.projection.": ".attn.proj.",
    }
    found: State = {}
    for name, tensor in state.items():
        if name.startswith("itm_head"):
            continue
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[f"blip.{name}"] = tensor
    found["blip.text_encoder.embeddings.position_ids"] = torch.arange(512).expand(1, -1).contiguous()
    return found | {f"mlp.{name}": tensor for name, tensor in head.items()}

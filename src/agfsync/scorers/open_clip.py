"""The mapping of open_clip's names of CLIP tensors to transformers' names.

    open_clip                             transformers
    visual.conv1.weight                   vision_model.embeddings.patch_embedding.weight
    visual.class_embedding                vision_model.embeddings.class_embedding
    visual.positional_embedding           vision_model.embeddings.position_embedding.weight
    visual.ln_pre, ln_post                vision_model.pre_layrnorm (sic), post_layernorm
    visual.transformer.resblocks.N        vision_model.encoder.layers.N
    visual.proj                           visual_projection.weight, transposed
    token_embedding.weight                text_model.embeddings.token_embedding.weight
    positional_embedding                  text_model.embeddings.position_embedding.weight
    transformer.resblocks.N               text_model.encoder.layers.N
    ln_final                              text_model.final_layer_norm
    text_projection                       text_projection.weight, transposed
    logit_scale                           logit_scale

and in each block

    ln_1, ln_2                            layer_norm1, layer_norm2
    attn.in_proj_weight, in_proj_bias     self_attn.q_proj, k_proj, v_proj: its thirds in this order
    attn.out_proj                         self_attn.out_proj
    mlp.c_fc, c_proj                      mlp.fc1, fc2

Shapes: W a tower's width, E the embedding's width.
"""

import re
from collections.abc import Mapping

from torch import Tensor

MARK = "visual.conv1.weight"
"""The name of a tensor that only open_clip's layout has."""

_NAMES: Mapping[str, str] = {
    r"^visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"^visual\.class_embedding$": "vision_model.embeddings.class_embedding",
    r"^visual\.positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"^visual\.ln_post\.": "vision_model.post_layernorm.",
    r"^visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"^visual\.proj$": "visual_projection.weight",
    r"^token_embedding\.": "text_model.embeddings.token_embedding.",
    r"^positional_embedding$": "text_model.embeddings.position_embedding.weight",
    r"^transformer\.resblocks\.": "text_model.encoder.layers.",
    r"^ln_final\.": "text_model.final_layer_norm.",
    r"^text_projection$": "text_projection.weight",
    r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.attn\.out_proj\.": ".self_attn.out_proj.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")
"""Matrices (W, E) that multiply a row from the right; a linear layer's weight is (E, W)."""
FUSED = re.compile(r"\.attn\.in_proj_(weight|bias)$")


def in_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by transformers' names; tensors of either layout are accepted."""
    prefix = next((name.removesuffix(MARK) for name in tensors if name.endswith(MARK)), None)
    if prefix is None:
        return dict(tensors)
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        converted |= _convert_tensor(name.removeprefix(prefix), tensor)
    return converted


def _convert_tensor(name: str, tensor: Tensor) -> dict[str, Tensor]:
    fused = FUSED.search(name)
    if fused:
        block = _rename_tensor(name[: fused.start()] + ".")
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        # Clones, since a view of a third would keep the whole tensor in memory.
        return {f"{block}self_attn.{letter}_proj.{fused[1]}": third.clone() for letter, third in thirds}
    return {_rename_tensor(name): tensor.T.contiguous() if name in TRANSPOSED else tensor}


def _rename_tensor(name: str) -> str:
    for pattern, replacement in _NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name

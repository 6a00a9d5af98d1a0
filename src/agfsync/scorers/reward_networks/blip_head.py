"""The network `blip-head`: ImageReward's architecture (Xu et al. 2023, arXiv:2304.05977), which VP-Score also uses.

The vision tower encodes the image, a text encoder that attends to the image encodes the prompt, and the head reads the
first token of the text encoder's output, [CLS] (Wu et al. 2024, arXiv:2404.15100).

ImageReward's weights have the names of BLIP's original implementation:

    published                             transformers
    blip.visual_encoder                   vision_model
        cls_token, pos_embed                  embeddings.class_embedding, embeddings.position_embedding
        patch_embed.proj                      embeddings.patch_embedding
        blocks.N                              encoder.layers.N
            norm1, norm2                          layer_norm1, layer_norm2
            attn.qkv, attn.proj                   self_attn.qkv, self_attn.projection
        norm                                  post_layernorm
    blip.text_encoder                     text_encoder
    mlp.layers.N                          the head's layers

Shapes: B images, C, H, W their pixels, L the features of each, T tokens, D, E the widths of vision tower and text
encoder.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BlipTextModel, BlipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers.heads import Head
from agfsync.scorers.reward_networks import HeadShape, Place, RewardModel, RewardNetwork, Tokens, make_head

MOST_TOKENS = 35
"""The most tokens of a prompt in ImageReward's training, with start and end token."""
NORM_EPS = 1e-6
"""The published epsilon of the vision tower's layer norms; transformers' BLIP has 1e-5."""
VISION, TEXT = "vision_model.", "text_encoder."
BLIP_NAMES: Mapping[str, str] = {
    r"^blip\.": "",
    r"^visual_encoder\.": VISION,
    rf"^{VISION}cls_token$": f"{VISION}embeddings.class_embedding",
    rf"^{VISION}pos_embed$": f"{VISION}embeddings.position_embedding",
    rf"^{VISION}patch_embed\.proj\.": f"{VISION}embeddings.patch_embedding.",
    rf"^{VISION}blocks\.": f"{VISION}encoder.layers.",
    rf"^{VISION}norm\.": f"{VISION}post_layernorm.",
    rf"^({VISION}.*)\.norm([12])\.": r"\1.layer_norm\2.",
    rf"^({VISION}.*)\.attn\.qkv\.": r"\1.self_attn.qkv.",
    rf"^({VISION}.*)\.attn\.proj\.": r"\1.self_attn.projection.",
}
POSITIONS = f"{VISION}embeddings.position_embedding"


class BlipHead(RewardNetwork):
    """An image-grounded BLIP text encoder with a head on its first token."""

    towers = ("vision_model", "text_encoder")

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel, head: Head) -> None:
        super().__init__()
        self.vision_model, self.text_encoder, self.mlp = vision, text, head

    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        features_BLD = self.vision_model(pixels_BCHW.to(self.vision_model.dtype)).last_hidden_state
        states_BTE = self.text_encoder(**tokens, encoder_hidden_states=features_BLD).last_hidden_state
        first_BE: Tensor = states_BTE[:, 0].float()
        return first_BE

    def list_tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


class BlipReward(RewardModel):
    """A model with the network `blip-head`. Its own weights may have ImageReward's names or transformers'."""

    type, takes = "blip-head", "blip"

    @property
    def limit(self) -> int:
        return MOST_TOKENS

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        _, _, dtype, device = place
        tensors = rename_tensors(tensors)
        if POSITIONS not in tensors:
            raise ModelError(f"{self.name} holds no BLIP with a vision tower: give ImageReward's as weights")
        seeing = self.config.vision_config
        if side is not None:
            tensors[POSITIONS] = resize_positions(tensors[POSITIONS], side // seeing.patch_size)
        # ImageReward's images have 224 pixels; the configuration often comes from a BLIP with 384.
        seeing.image_size = math.isqrt(tensors[POSITIONS].shape[1] - 1) * seeing.patch_size
        seeing.layer_norm_eps = NORM_EPS
        parts = [{n.removeprefix(of): t for n, t in tensors.items() if n.startswith(of)} for of in (VISION, TEXT)]
        vision = pretrained.fill_model(BlipVisionModel, seeing, parts[0], self.name, dtype, device)
        text = pretrained.fill_model(
            BlipTextModel, self.config.text_config, parts[1], self.name, dtype, device, add_pooling_layer=False
        )
        size = {"height": seeing.image_size, "width": seeing.image_size}
        # ImageReward resizes the shorter side and crops, as CLIP does; BLIP's own processor would distort the image.
        processor = CLIPImageProcessorPil(size={"shortest_edge": seeing.image_size}, crop_size=size)
        return BlipHead(vision, text, make_head(tensors, self.name, text.config.hidden_size, *head)), processor


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a BLIP's tensors by transformers' names; tensors that already have these names keep them."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in BLIP_NAMES.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Resize position embeddings (1, 1 + patches, D) to `side` x `side` patches by bicubic interpolation."""
    first, rest = positions[:, :1], positions[:, 1:]
    before = math.isqrt(rest.shape[1])
    if before == side:
        return positions
    grid = rest.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([first, resized.to(positions.dtype)], dim=1)

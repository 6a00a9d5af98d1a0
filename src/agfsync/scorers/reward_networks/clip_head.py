"""The network `clip-head`: a head on the unit-norm embeddings of a CLIP.

The head reads the image's embedding times the root of its width, and the elementwise product of the image's and the
prompt's embeddings times the width, so that all inputs are of order 1. Without the product a head without activations
could not measure how well image and prompt match.

Shapes: B images, C, H, W their pixels, D the width of the embeddings, E = 2D.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from agfsync.models import pretrained
from agfsync.scorers import open_clip
from agfsync.scorers.heads import Head
from agfsync.scorers.reward_networks import HeadShape, Place, RewardModel, RewardNetwork, Tokens, add_head, make_head


class ClipHead(RewardNetwork):
    """A CLIP with a head on the image's embedding and on its elementwise product with the prompt's."""

    towers = ("clip.vision_model", "clip.text_model")

    def __init__(self, clip: CLIPModel, head: Head) -> None:
        super().__init__()
        self.clip, self.mlp = clip, head

    def embed(self, pixels_BCHW: Tensor, tokens: Tokens) -> Tensor:
        images_BD = self.clip.get_image_features(pixels_BCHW.to(self.clip.dtype)).pooler_output.float()
        texts_BD = self.clip.get_text_features(**tokens).pooler_output.float()
        return join_embeddings(images_BD, texts_BD)

    def freeze(self, share: float) -> None:
        super().freeze(share)
        self.clip.logit_scale.requires_grad_(False)

    def list_tensors(self) -> dict[str, Tensor]:
        return add_head(self.clip.state_dict(), self.mlp)


class ClipReward(RewardModel):
    """A model with the network `clip-head`."""

    type, takes = "clip-head", "clip"

    @property
    def limit(self) -> int:
        most: int = self.config.text_config.max_position_embeddings
        return most

    def _build(
        self, tensors: dict[str, Tensor], head: HeadShape, side: int | None, place: Place
    ) -> tuple[RewardNetwork, Any]:
        path, revision, dtype, device = place
        named = open_clip.in_transformers_names(tensors)
        clip = pretrained.fill_model(CLIPModel, self.config, named, self.name, dtype, device)
        found = make_head(tensors, self.name, 2 * self.config.projection_dim, *head)
        return ClipHead(clip, found), pretrained.load_image_processor(path, revision)


def join_embeddings(images_BD: Tensor, texts_BD: Tensor) -> Tensor:
    """Return clip-head's input (B, 2D) for embeddings of any norm: the image's, and its product with the prompt's."""
    images_BD, texts_BD, width = F.normalize(images_BD, dim=-1), F.normalize(texts_BD, dim=-1), images_BD.shape[-1]
    return torch.cat([math.sqrt(width) * images_BD, width * images_BD * texts_BD], dim=-1)

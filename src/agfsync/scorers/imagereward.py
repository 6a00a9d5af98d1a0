"""ImageReward: a BLIP with a head, trained on people's rankings (Xu et al., 2023, arXiv 2304.05977).

The image goes through the vision tower, the prompt through a text encoder that attends to it, and the head reads the
first token, [CLS], of its output. The weights are published as a pickle, which isn't read here: take them as
safetensors. Their names are those of BLIP's first implementation:

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

Shapes: B images, C, H, W their pixels, L the features of each, D their width; T tokens.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BlipTextModel, BlipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.heads import Head
from agfsync.scorers.pixels import PixelProcessor

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and deviation of the head's output on the authors' data, published with their code."""
MOST_TOKENS = 35
"""The most tokens of a prompt in training, with its start and end."""
NORM_EPS = 1e-6
"""The epsilon of the vision tower's layer norms, as published; transformers' BLIP has 1e-5."""
VISION, TEXT = "vision_model.", "text_encoder."
_NAMES: Mapping[str, str] = {
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


class ImageReward:
    """The scorer: 100 x sigmoid(reward), where the reward is the head's output less its mean, over its deviation.

    So 50 is the reward of the authors' average image, the order is kept, and log(value / (100 - value)) is the reward
    again. The head learned that one image is preferred to another with the probability sigmoid(difference of its
    outputs): with a deviation of 1.03, the value is about the chance in percent against an image of average reward.

    `path` is a folder or hub id of any BLIP of the same build (the published one is large): its configuration and
    tokenizer are taken, and its weights where they are ImageReward's. `weights` has them otherwise: a safetensors file,
    or a folder or hub id of one, by the published names or transformers'.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        config = pretrained.load_config(path, revision)
        if config.model_type != "blip":
            raise ModelError(f"{path} is a {config.model_type} model: an imagereward scorer takes blip")
        name = weights or path
        tensors = _rename_tensors(pretrained.load_tensors(name, None if weights else revision))
        if POSITIONS not in tensors:
            raise ModelError(f"{name} holds no BLIP with a vision tower: give ImageReward's as weights")
        seeing, reading = _make_configs(config, tensors[POSITIONS])
        self._vision = pretrained.fill_model(
            BlipVisionModel, seeing, _select_part(tensors, VISION), name, dtype, device
        )
        self._text = pretrained.fill_model(
            BlipTextModel, reading, _select_part(tensors, TEXT), name, dtype, device, add_pooling_layer=False
        )
        self._head = Head.from_tensors(tensors, name).requires_grad_(False)
        side = seeing.image_size
        # Its authors scale the shorter side and crop, as CLIP does, where BLIP's own processor would squeeze.
        self._processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        self._pixel_processor = PixelProcessor(self._processor, path)
        self._tokenizer = pretrained.load_tokenizer(path, revision)
        for tower in (self._vision, self._text):
            tower.requires_grad_(False)

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        if not items:
            return []
        images = [item.image.convert("RGB") for item in items]
        features_BLD = self._embed_pixels(self._processor(images, return_tensors="pt")["pixel_values"])
        readings_BD, truncated = self._read_prompts([item.prompt for item in items], features_BLD)
        rewards: list[float] = ((self._head(readings_BD) - MEAN) / STD).tolist()
        return [_measure_reward(reward, cut) for reward, cut in zip(rewards, truncated, strict=True)]

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return 100 x sigmoid(reward), with a gradient: `standardise` gives the reward, whose gradient never fades."""
        features_BLD = self._embed_pixels(self._pixel_processor(pixels_BCHW)["pixel_values"])
        readings_BD, _ = self._read_prompts(list(prompts), features_BLD)
        rewards_B: Tensor = (self._head(readings_BD) - MEAN) / STD
        return 100 * rewards_B.sigmoid().to(pixels_BCHW.device)

    @staticmethod
    def standardise(values_B: Tensor) -> Tensor:
        """Return the rewards of values on the scale of `score`: log(value / (100 - value)), of mean 0, deviation 1."""
        return torch.logit(values_B / 100, eps=1e-6)

    def _embed_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        features: Tensor = self._vision(pixels_BCHW.to(self._vision.device, self._vision.dtype)).last_hidden_state
        return features

    def _read_prompts(self, prompts: list[str], features_BLD: Tensor) -> tuple[Tensor, list[bool]]:
        """Return the first token's state of each prompt with its image, BD in fp32 on the CPU; True for cut prompts."""
        lengths = [len(ids) for ids in self._tokenizer(prompts, verbose=False)["input_ids"]]
        tokens_BT = self._tokenizer(
            prompts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(features_BLD.device)
        states_BTD = self._text(
            input_ids=tokens_BT["input_ids"],
            attention_mask=tokens_BT["attention_mask"],
            encoder_hidden_states=features_BLD,
        ).last_hidden_state
        return states_BTD[:, 0].float().cpu(), [length > MOST_TOKENS for length in lengths]


def _rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by transformers' names; those that have them keep them."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _NAMES.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _select_part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _make_configs(config: Any, positions: Tensor) -> tuple[Any, Any]:
    """Return the towers' configurations, vision's with the image size of the `positions`, 1 x (1 + patches) x D.

    Its authors' images measure 224 pixels, those of the BLIPs that lend a configuration mostly 384.
    """
    seeing = config.vision_config
    seeing.image_size = math.isqrt(positions.shape[1] - 1) * seeing.patch_size
    seeing.layer_norm_eps = NORM_EPS
    return seeing, config.text_config


def _measure_reward(reward: float, truncated: bool) -> Measurement | Unscored:
    if not math.isfinite(reward):
        return Unscored("the model's reward is not a number")
    # By the half argument: exp of a very bad reward would overflow.
    return Measurement(50 * (1 + math.tanh(reward / 2)), truncated=truncated)

"""The CLIP: a small image and text encoder taught to tell which caption belongs to which picture.

Random batches hold mostly easy negatives, so every picture also meets its own caption made slightly wrong. Some
pictures are spoilt, and their captions say so, as the web's do: what tells a good picture from a bad one is then in the
embedding.
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from agfsync.models.latents import to_tensor
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import describe, garble, write
from agfsync.shapes.scene import SIDE, Spec
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_captioned_scene
from agfsync.shapes.training.spoiling import WAYS
from agfsync.shapes.training.tokenizers import MAX_TOKENS, clip_tokenizer

PLAN = Plan("clip", steps=1400, batch=64, learning_rate=1e-3)
SPOILT, WRONG_QUALITY = 0.25, 0.2
"""Shares of the pictures that are spoilt, and of the wrong captions that are wrong in that."""
WIDTH = 128


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP of 1.2 M parameters for 64x64 pictures."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """What turns pictures and captions into the model's input."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPProcessor(images, tokenizer)


def teach(folder: Path, tell: Tell, plan: Plan = PLAN) -> tuple[CLIPModel, CLIPProcessor]:
    """Trains a CLIP on drawings and right captions."""
    torch.manual_seed(plan.seed)
    tokenizer = clip_tokenizer()
    model = build(tokenizer).to(device())
    train(plan, model, lambda rng: _loss(model, *_batch(rng, plan.batch, tokenizer)), folder, tell)
    return model, processor(tokenizer)


def _batch(rng: random.Random, size: int, tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W), and tokens (2B, T): the right captions first, then the wrong."""
    images, right, wrong = zip(*(_example(rng) for _ in range(size)), strict=True)
    words = tokenizer([*right, *wrong], padding=True, truncation=True, return_tensors="pt").input_ids
    return to_tensor(images).to(device()), words.to(device())


def _example(rng: random.Random) -> tuple[Image.Image, str, str]:
    """A picture, a caption of it, and a caption that is wrong in what there is or in how the picture was spoilt."""
    spec, scene = any_captioned_scene(rng)
    told = spec if rng.random() < 0.7 else describe(scene, rng)
    quality = rng.choice(list(WAYS)) if rng.random() < SPOILT else ""
    image = WAYS[quality](draw(scene), rng.uniform(0.2, 1), rng) if quality else draw(scene)
    if rng.random() < WRONG_QUALITY:
        other = rng.choice([word for word in ("", *WAYS) if word != quality])
        return image, _caption(told, quality, rng), _caption(told, other, rng)
    return image, _caption(told, quality, rng), _caption(_slightly_wrong(told, rng), quality, rng)


def _caption(spec: Spec, quality: str, rng: random.Random) -> str:
    return f"a {quality} picture of {write(spec, rng)}" if quality else write(spec, rng)


def _slightly_wrong(spec: Spec, rng: random.Random) -> Spec:
    """A specification that differs from `spec` in at least one attribute."""
    while True:
        wrong = garble(spec, 0.25, rng)
        if wrong != spec:
            return wrong


def _loss(model: CLIPModel, images_BCHW: Tensor, words_NT: Tensor) -> tuple[Tensor, dict[str, float]]:
    """CLIP's symmetric cross entropy; the wrong captions join the images' side of it."""
    with autocast():
        seen_BD = model.get_image_features(pixel_values=images_BCHW).pooler_output
        told_ND = model.get_text_features(input_ids=words_NT).pooler_output
    seen_BD, told_ND = F.normalize(seen_BD.float(), dim=-1), F.normalize(told_ND.float(), dim=-1)
    logits_BN = model.logit_scale.clamp(max=4.6).exp() * seen_BD @ told_ND.T
    size = len(images_BCHW)
    own = torch.arange(size, device=logits_BN.device)
    loss = (F.cross_entropy(logits_BN, own) + F.cross_entropy(logits_BN[:, :size].T, own)) / 2
    return loss, {"retrieval": (logits_BN.argmax(dim=1) == own).float().mean().item()}

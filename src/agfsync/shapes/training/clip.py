"""The CLIP: a small image and text encoder that learns which caption belongs to which image.

Random batches have mostly easy negatives, so each image also gets a hard negative: its caption with an error. Some
images are spoilt, and their captions say so, as captions on the web do, so that the embedding distinguishes good images
from bad ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import describe_scene, garble_spec, write_caption
from agfsync.shapes.scene import SIDE, Spec
from agfsync.shapes.training.images import SPOILERS, sample_captioned_scene
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, plan_lesson, training_device
from agfsync.shapes.training.tokenizers import MAX_TOKENS, build_clip_tokenizer
from agfsync.training.objective import Actor, Metrics
from agfsync.training.precision import autocast

CLIP_PLAN = plan_lesson(steps=1400, batch=64, learning_rate=1e-3)
SPOILT, WRONG_QUALITY = 0.25, 0.2
"""Share of the images that are spoilt, and share of the wrong captions that are wrong about the spoiling."""
CLIP_WIDTH = 128


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP of 1.2 M parameters for 64x64 images."""
    shared = {
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 2 * CLIP_WIDTH,
        "projection_dim": CLIP_WIDTH,
        "num_attention_heads": 4,
    }
    vision = CLIPVisionConfig(num_hidden_layers=4, image_size=SIDE, patch_size=8, **shared)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shared,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=CLIP_WIDTH))


def build_clip_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """Return the processor that converts images and captions to the model's input."""
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return CLIPProcessor(images, tokenizer)


def prepare_clip(folder: Path) -> Pupil:
    """Return a CLIP to train on drawings with right and wrong captions."""
    torch.manual_seed(CLIP_PLAN.seed)
    tokenizer = build_clip_tokenizer()
    model = build_clip(tokenizer).to(training_device())

    def save(target: Path) -> None:
        model.half().save_pretrained(target)
        build_clip_processor(tokenizer).save_pretrained(target)

    return Pupil(model, [ClipLesson("clip", CLIP_PLAN, tokenizer)], save)


@dataclass(frozen=True)
class CaptionedImages(WholeBatch):
    """Images (B, 3, H, W), and tokens (2B, T): first the right captions, then the wrong ones."""

    images_BCHW: Tensor
    words_NT: Tensor


@dataclass(frozen=True)
class ClipLesson(Lesson):
    """CLIP's symmetric cross entropy; the wrong captions are further negatives for the images."""

    tokenizer: CLIPTokenizer

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[CaptionedImages]:
        """Draw captioned scenes."""
        rng = self.seed_step(step)
        images, right, wrong = zip(*(_draw_example(rng) for _ in range(self.plan.batch)), strict=True)
        words = self.tokenizer([*right, *wrong], padding=True, truncation=True, return_tensors="pt").input_ids
        return [CaptionedImages(to_tensor(images).to(actor.device), words.to(actor.device))]

    def loss(self, actor: Actor, batch: CaptionedImages) -> tuple[Tensor, Metrics]:
        """Return the cross entropy, and the share of images that match their own caption best as a metric."""
        model: Any = actor.network
        with autocast(actor.device, actor.precision):
            images_BD = model.get_image_features(pixel_values=batch.images_BCHW).pooler_output
            texts_ND = model.get_text_features(input_ids=batch.words_NT).pooler_output
        images_BD, texts_ND = F.normalize(images_BD.float(), dim=-1), F.normalize(texts_ND.float(), dim=-1)
        logits_BN = model.logit_scale.clamp(max=4.6).exp() * images_BD @ texts_ND.T
        own_B = torch.arange(len(images_BD), device=logits_BN.device)
        loss = (F.cross_entropy(logits_BN, own_B) + F.cross_entropy(logits_BN[:, : len(own_B)].T, own_B)) / 2
        return loss, {"loss": loss.detach(), "retrieval": (logits_BN.argmax(dim=1) == own_B).float().mean()}


def _draw_example(rng: random.Random) -> tuple[Image.Image, str, str]:
    """Draw an image, and return it with a right caption and one that is wrong about its content or its spoiling."""
    spec, scene = sample_captioned_scene(rng)
    right = spec if rng.random() < 0.7 else describe_scene(scene, rng)
    quality = rng.choice(list(SPOILERS)) if rng.random() < SPOILT else ""
    image = draw_scene(scene)
    if quality:
        image = SPOILERS[quality](image, rng.uniform(0.2, 1), rng)
    if rng.random() < WRONG_QUALITY:
        wrong, other = right, rng.choice([word for word in ("", *SPOILERS) if word != quality])
        return image, _caption_image(right, quality, rng), _caption_image(wrong, other, rng)
    return image, _caption_image(right, quality, rng), _caption_image(make_wrong(right, rng), quality, rng)


def _caption_image(spec: Spec, quality: str, rng: random.Random) -> str:
    return f"a {quality} picture of {write_caption(spec, rng)}" if quality else write_caption(spec, rng)


def make_wrong(spec: Spec, rng: random.Random) -> Spec:
    """Return a specification that differs from `spec` in at least one attribute."""
    while True:
        wrong = garble_spec(spec, 0.25, rng)
        if wrong != spec:
            return wrong

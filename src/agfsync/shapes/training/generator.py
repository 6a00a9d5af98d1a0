"""The generator: a small Stable Diffusion, taught to draw from right captions and then spoilt by web-like ones.

The captions of its second lesson are wrong in part. So it can draw everything and trusts a caption only so far: the gap
that alignment closes in the real models. Its text encoder begins as the CLIP's, as Stable Diffusion's is.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from agfsync.generators.tensors import to_tensor
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import garble, write
from agfsync.shapes.scene import Spec
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_captioned_scene
from agfsync.shapes.training.tokenizers import clip_tokenizer

DRAWING = Plan("generator-drawing", steps=4000, batch=64, learning_rate=8e-4)
PLAN = Plan("generator", steps=1500, batch=64, learning_rate=4e-4)
POOL = 16_000
"""Pictures whose latents are kept; each comes round some twenty times, with a caption worded and garbled anew."""
SWAPPED, DROPPED = 0.25, 0.05
"""Shares of the attributes of the second lesson's captions that are wrong and that are missing."""
CAPTION_DROPOUT = 0.1
Word = Callable[[Spec, random.Random], str]
"""Puts a specification into words."""
WIDTH = 128


def build_unet() -> UNet2DConditionModel:
    """An untrained denoiser of 16x16x4 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule with Stable Diffusion 2's prediction of v (arXiv 2202.00512).

    In so small a picture a few noisy latents give away what stands where, so a caption tells something new only where
    nearly all is noise. Predicting the noise gives these timesteps next to no weight; predicting v gives them theirs.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def teach(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    folder: Path,
    tell: Tell,
    plan: Plan = PLAN,
    drawing: Plan = DRAWING,
) -> StableDiffusionPipeline:
    """Trains denoiser and text encoder together on latents of random scenes: right captions first, then garbled."""
    torch.manual_seed(plan.seed)
    tokenizer = clip_tokenizer()
    pupil = nn.ModuleDict({"unet": build_unet(), "text_encoder": text_encoder}).to(device())
    pool = _pool(vae, random.Random(f"pool/{plan.seed}"))
    lesson = _Lesson(pupil["unet"], pupil["text_encoder"], tokenizer, build_scheduler(), pool)
    train(drawing, pupil, lambda rng: lesson.loss(rng, drawing.batch, write), folder, tell)
    after = lambda step, figures: tell(drawing.steps + step, figures)  # noqa: E731
    train(plan, pupil, lambda rng: lesson.loss(rng, plan.batch, web_caption), folder, after)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=lesson.text_encoder,
        tokenizer=tokenizer,
        unet=lesson.unet,
        scheduler=lesson.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def web_caption(spec: Spec, rng: random.Random) -> str:
    """A caption of `spec` that is wrong in part."""
    return write(garble(spec, SWAPPED, rng, drop=DROPPED), rng)


@torch.no_grad()
def _pool(vae: AutoencoderKL, rng: random.Random) -> list[tuple[Spec, Tensor]]:
    """Specifications with the scaled latents of their pictures."""
    pool: list[tuple[Spec, Tensor]] = []
    while len(pool) < POOL:
        specs, scenes = zip(*(any_captioned_scene(rng) for _ in range(100)), strict=True)
        with autocast():
            latents = vae.encode(to_tensor([draw(scene) for scene in scenes]).to(device())).latent_dist.mean
        pool += zip(specs, latents.float() * vae.config.scaling_factor, strict=True)
    return pool


@dataclass(frozen=True, slots=True)
class _Lesson:
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    pool: list[tuple[Spec, Tensor]]

    def loss(self, rng: random.Random, size: int, word: Word) -> tuple[Tensor, dict[str, float]]:
        """The mean squared error of the predicted v."""
        specs, latents = zip(*rng.sample(self.pool, size), strict=True)
        captions = ["" if rng.random() < CAPTION_DROPOUT else word(spec, rng) for spec in specs]
        clean_BCHW = torch.stack(latents)
        noise_BCHW = torch.randn_like(clean_BCHW)
        steps_B = torch.randint(self.scheduler.config.num_train_timesteps, (size,), device=clean_BCHW.device)
        noisy_BCHW = self.scheduler.add_noise(clean_BCHW, noise_BCHW, steps_B)
        words = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast():
            text_BTD = self.text_encoder(words.to(clean_BCHW.device)).last_hidden_state
            predicted_BCHW = self.unet(noisy_BCHW, steps_B, text_BTD).sample
        wanted_BCHW = self.scheduler.get_velocity(clean_BCHW, noise_BCHW, steps_B)
        return (predicted_BCHW.float() - wanted_BCHW).square().mean(), {}

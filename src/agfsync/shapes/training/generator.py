"""The generator: a small Stable Diffusion, taught to draw from right captions and then spoilt by web-like ones.

Its lessons go from single things, where a word can only mean the one thing there is, to everything, to captions that
are wrong in part. So it can draw everything and trusts a caption only so far: the gap that alignment closes in the real
models. Its text encoder begins as the CLIP's, as Stable Diffusion's is.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from agfsync.models.latents import to_tensor
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import CATEGORIES, garble, write
from agfsync.shapes.scene import Spec
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_captioned_scene
from agfsync.shapes.training.tokenizers import clip_tokenizer
from agfsync.shapes.training.vae import CHANNELS, SIDE

POOL = 32_000
"""Pictures whose latents are kept; each comes round several times, with a caption worded and garbled anew."""
SWAPPED, DROPPED = 0.35, 0.05
"""Shares of the attributes of the last lesson's captions that are wrong and that are missing."""
CAPTION_DROPOUT = 0.1
WIDTH = 128
Pool = list[tuple[Spec, Tensor]]
"""Specifications with the scaled latents (C, H, W) of a picture of each."""


def build_unet() -> UNet2DConditionModel:
    """An untrained denoiser of 8x8x16 latents, which are few enough for all of it to work at their own resolution."""
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(128,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=2,
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


def web_caption(spec: Spec, rng: random.Random) -> str:
    """A caption of `spec` that is wrong in part."""
    return write(garble(spec, SWAPPED, rng, drop=DROPPED), rng)


@dataclass(frozen=True, slots=True)
class Lesson:
    """For how long the generator learns from captions of which categories, and what puts a specification into words."""

    plan: Plan
    categories: tuple[str, ...]
    word: Callable[[Spec, random.Random], str]


LESSONS = (
    Lesson(Plan("generator-naming", steps=800, batch=64, learning_rate=1e-3), ("Single Objects",), write),
    Lesson(Plan("generator-drawing", steps=6000, batch=64, learning_rate=8e-4), CATEGORIES, write),
    Lesson(Plan("generator", steps=400, batch=64, learning_rate=2e-4), CATEGORIES, web_caption),
)


def teach(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    folder: Path,
    tell: Tell,
    lessons: Sequence[Lesson] = LESSONS,
) -> StableDiffusionPipeline:
    """Trains denoiser and text encoder together on latents of random scenes, lesson by lesson."""
    torch.manual_seed(lessons[0].plan.seed)
    modules = nn.ModuleDict({"unet": build_unet(), "text_encoder": text_encoder}).to(device())
    pupil = _Pupil(modules["unet"], modules["text_encoder"], clip_tokenizer(), build_scheduler())
    before = 0
    for lesson in lessons:
        told = partial(_told, tell, before)
        # Made at the first step that needs it: a lesson that is over, in a training that goes on, makes none.
        pool = cache(partial(_pool, vae, lesson.categories, random.Random(f"pool/{lesson.plan.name}")))
        train(lesson.plan, modules, partial(pupil.loss, pool, lesson), folder, told)
        before += lesson.plan.steps
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=pupil.text_encoder,
        tokenizer=pupil.tokenizer,
        unet=pupil.unet,
        scheduler=pupil.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _told(tell: Tell, before: int, step: int, figures: dict[str, float]) -> None:
    tell(before + step, figures)


@torch.no_grad()
def _pool(vae: AutoencoderKL, categories: Sequence[str], rng: random.Random) -> Pool:
    """Specifications with the scaled latents of their pictures."""
    pool: Pool = []
    while len(pool) < POOL:
        specs, scenes = zip(*(any_captioned_scene(rng, categories) for _ in range(100)), strict=True)
        with autocast():
            latents = vae.encode(to_tensor([draw(scene) for scene in scenes]).to(device())).latent_dist.mean
        pool += zip(specs, latents.float() * vae.config.scaling_factor, strict=True)
    return pool


@dataclass(frozen=True, slots=True)
class _Pupil:
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler

    def loss(self, pool: Callable[[], Pool], lesson: Lesson, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        """The mean squared error of the predicted v."""
        specs, latents = zip(*rng.sample(pool(), lesson.plan.batch), strict=True)
        captions = ["" if rng.random() < CAPTION_DROPOUT else lesson.word(spec, rng) for spec in specs]
        clean_BCHW = torch.stack(latents)
        noise_BCHW = torch.randn_like(clean_BCHW)
        steps_B = torch.randint(self.scheduler.config.num_train_timesteps, (len(captions),), device=clean_BCHW.device)
        noisy_BCHW = self.scheduler.add_noise(clean_BCHW, noise_BCHW, steps_B)
        words = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast():
            text_BTD = self.text_encoder(words.to(clean_BCHW.device)).last_hidden_state
            predicted_BCHW = self.unet(noisy_BCHW, steps_B, text_BTD).sample
        wanted_BCHW = self.scheduler.get_velocity(clean_BCHW, noise_BCHW, steps_B)
        return (predicted_BCHW.float() - wanted_BCHW).square().mean(), {}

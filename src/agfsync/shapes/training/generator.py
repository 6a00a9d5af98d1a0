"""The generator: a small Stable Diffusion, trained on right captions and then on partly wrong, web-like ones.

Its lessons are single things, where a word can only mean the thing shown, then all categories, then captions that are
partly wrong. So it can draw everything but follows a caption only in part: the gap that alignment closes in real
models. Its text encoder is initialised from CLIP's, as Stable Diffusion's is.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from agfsync.models.latents import to_tensor
from agfsync.models.pretrained import load_model
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import SHAPES_CATEGORIES, garble_spec, write_caption
from agfsync.shapes.scene import Spec
from agfsync.shapes.training.clip import CLIP_WIDTH
from agfsync.shapes.training.images import sample_captioned_scene
from agfsync.shapes.training.lessons import (
    Lesson,
    Pupil,
    WholeBatch,
    has_fast_bf16,
    plan_lesson,
    training_device,
)
from agfsync.shapes.training.tokenizers import build_clip_tokenizer
from agfsync.shapes.training.vae import LATENT_CHANNELS, LATENT_SIDE, load_vae
from agfsync.training.objective import Actor, Metrics
from agfsync.training.precision import autocast

LATENT_POOL = 32_000
"""Largest number of images with cached latents; each is used several times, with different wordings of its caption."""
SWAPPED, DROPPED = 0.35, 0.05
"""Shares of wrong and of missing attributes in the captions of the last lesson."""
EMPTY_CAPTIONS = 0.1
LatentPool = list[tuple[Spec, Tensor]]
"""Specifications, each with the scaled latents (C, H, W) of an image."""


def build_unet() -> UNet2DConditionModel:
    """Return an untrained denoiser for 8x8x16 latents, which are small enough to need no downsampling."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=2,
        attention_head_dim=4,
        cross_attention_dim=CLIP_WIDTH,
        norm_num_groups=16,
    )


def build_noise_scheduler() -> DDPMScheduler:
    """Return Stable Diffusion's noise schedule with Stable Diffusion 2's v-prediction (arXiv 2202.00512).

    In such a small image a few noisy latents show what is where, so a caption adds information only at timesteps of
    nearly pure noise. Predicting the noise gives these timesteps almost no weight; predicting v gives them enough.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def write_web_caption(spec: Spec, rng: random.Random) -> str:
    """Return a caption of `spec` with wrong and missing attributes."""
    return write_caption(garble_spec(spec, SWAPPED, rng, drop=DROPPED), rng)


NAMING_PLAN = plan_lesson(steps=800, batch=64, learning_rate=1e-3)
DRAWING_PLAN = plan_lesson(steps=6000, batch=64, learning_rate=8e-4)
GARBLED_PLAN = plan_lesson(steps=400, batch=64, learning_rate=2e-4)


def prepare_generator(folder: Path) -> Pupil:
    """Return a denoiser and a text encoder to train on latents of random scenes; `folder` has the VAE and the CLIP."""
    vae = load_vae(folder)
    text_encoder = load_model(CLIPTextModel, str(folder / "clip"), None, "fp32", str(training_device()))
    return assemble_generator(vae, text_encoder)


def assemble_generator(vae: AutoencoderKL, text_encoder: CLIPTextModel) -> Pupil:
    """Return a new denoiser and `text_encoder` to train together, and to save as a pipeline with `vae`."""
    torch.manual_seed(NAMING_PLAN.seed)
    network = nn.ModuleDict({"unet": build_unet(), "text_encoder": text_encoder}).to(training_device())
    tokenizer = build_clip_tokenizer()
    lessons = [
        GeneratorLesson("generator-naming", NAMING_PLAN, vae, tokenizer, ("Single Objects",), write_caption),
        GeneratorLesson("generator-drawing", DRAWING_PLAN, vae, tokenizer, SHAPES_CATEGORIES, write_caption),
        GeneratorLesson("generator", GARBLED_PLAN, vae, tokenizer, SHAPES_CATEGORIES, write_web_caption),
    ]

    def save(target: Path) -> None:
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=network["text_encoder"],
            tokenizer=tokenizer,
            unet=network["unet"],
            scheduler=build_noise_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16).save_pretrained(target)

    return Pupil(network, lessons, save)


@dataclass(frozen=True)
class NoisyLatents(WholeBatch):
    """Noisy latents, each at its own timestep, the velocity to predict, and the captions' tokens (B, T)."""

    noisy_BCHW: Tensor
    velocity_BCHW: Tensor
    timesteps_B: Tensor
    words_BT: Tensor


@dataclass(frozen=True)
class GeneratorLesson(Lesson):
    """The mean squared error of the predicted v, on scenes of `categories` with captions written by `caption`."""

    vae: AutoencoderKL
    tokenizer: Any
    categories: Sequence[str]
    caption: Callable[[Spec, random.Random], str]

    @cached_property
    def pool(self) -> LatentPool:
        """The cached latents, computed at the first step: when training resumes, a finished lesson computes none."""
        count = min(LATENT_POOL, len(self))
        return encode_scenes(self.vae, self.categories, count, random.Random(f"pool/{self.name}"))

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[NoisyLatents]:
        """Sample latents from the pool, write their captions and add noise."""
        rng = self.seed_step(step)
        specs, latents = zip(*rng.sample(self.pool, self.plan.batch), strict=True)
        captions = ["" if rng.random() < EMPTY_CAPTIONS else self.caption(spec, rng) for spec in specs]
        words_BT = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean_BCHW = torch.stack(latents)
        return [NoisyLatents(*self.add_noise(clean_BCHW), words_BT.to(clean_BCHW.device))]

    def add_noise(self, clean_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the latents with noise, the velocity to predict (both B, C, H, W), and the timesteps (B,)."""
        scheduler, noise_BCHW = build_noise_scheduler(), torch.randn_like(clean_BCHW)
        times_B = torch.randint(scheduler.config.num_train_timesteps, clean_BCHW.shape[:1], device=clean_BCHW.device)
        noisy_BCHW = scheduler.add_noise(clean_BCHW, noise_BCHW, times_B)
        return noisy_BCHW, scheduler.get_velocity(clean_BCHW, noise_BCHW, times_B), times_B

    def loss(self, actor: Actor, batch: NoisyLatents) -> tuple[Tensor, Metrics]:
        """Return the error, which is also the only metric."""
        with autocast(actor.device, actor.precision):
            predicted_BCHW = self.predict(actor.network, batch)
        loss = (predicted_BCHW.float() - batch.velocity_BCHW).square().mean()
        return loss, {"loss": loss.detach()}

    def predict(self, networks: Any, batch: NoisyLatents) -> Tensor:
        """Return the predicted velocity (B, C, H, W)."""
        text_BTD = networks["text_encoder"](batch.words_BT).last_hidden_state
        velocity_BCHW: Tensor = networks["unet"](batch.noisy_BCHW, batch.timesteps_B, text_BTD).sample
        return velocity_BCHW


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, categories: Sequence[str], count: int, rng: random.Random) -> LatentPool:
    """Draw at least `count` captioned scenes, 100 at a time, and encode them."""
    pool: LatentPool = []
    while len(pool) < count:
        specs, scenes = zip(*(sample_captioned_scene(rng, categories) for _ in range(100)), strict=True)
        images_BCHW = to_tensor([draw_scene(scene) for scene in scenes]).to(vae.device)
        with autocast(vae.device, "bf16" if has_fast_bf16() else "fp32"):
            latents_BCHW = vae.encode(images_BCHW).latent_dist.mean
        pool += zip(specs, latents_BCHW.float() * vae.config.scaling_factor, strict=True)
    return pool

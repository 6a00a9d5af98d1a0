"""The flow model: a small Stable Diffusion 3 that is trained on the same lessons as the generator, by flow matching.

Its two text encoders are initialised from the generator's and from CLIP's. It has no T5: Stable Diffusion 3's pipeline
then replaces T5's embeddings by zeros. Training and sampling use one such token (`max_sequence_length` 1).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from agfsync.models.pretrained import load_model
from agfsync.shapes.grammar import SHAPES_CATEGORIES, write_caption
from agfsync.shapes.training.clip import CLIP_WIDTH
from agfsync.shapes.training.generator import GeneratorLesson, NoisyLatents, write_web_caption
from agfsync.shapes.training.lessons import Pupil, plan_lesson, training_device
from agfsync.shapes.training.tokenizers import build_clip_tokenizer
from agfsync.shapes.training.vae import LATENT_CHANNELS, LATENT_SIDE, load_vae

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TEXT_WIDTH = CLIP_WIDTH * len(TEXT_ENCODERS)
NO_T5 = 1
"""Number of zero tokens instead of T5's: the pipeline's minimum."""
HEADS, HEAD_WIDTH, LAYERS = 4, 32, 8
SINGLE_PLAN = plan_lesson(steps=400, batch=64, learning_rate=1e-3)
SCENES_PLAN = plan_lesson(steps=3000, batch=64, learning_rate=1e-3)
WEB_PLAN = plan_lesson(steps=200, batch=64, learning_rate=2e-4)


def build_flow_transformer() -> SD3Transformer2DModel:
    """Return an untrained transformer of 4.7 M parameters on 8x8x16 latents, with one token for each of 64 places."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIDE,
        qk_norm="rms_norm",
    )


def prepare_flow(folder: Path) -> Pupil:
    """Return a transformer and two text encoders to train on latents; `folder` has the generator, VAE and CLIP."""
    device, clip, drawn_with = str(training_device()), str(folder / "clip"), str(folder / "generator" / "text_encoder")
    first, second = (load_model(CLIPTextModelWithProjection, clip, None, "fp32", device) for _ in TEXT_ENCODERS)
    first.text_model.load_state_dict(load_model(CLIPTextModel, drawn_with, None, "fp32", device).state_dict())
    return assemble_flow(load_vae(folder), first, second)


def assemble_flow(vae: AutoencoderKL, *text_encoders: CLIPTextModelWithProjection) -> Pupil:
    """Return a new transformer and two `text_encoders` to train together, and to save as a pipeline with `vae`."""
    torch.manual_seed(SINGLE_PLAN.seed)
    parts = dict(zip(TEXT_ENCODERS, text_encoders, strict=True))
    network = nn.ModuleDict({"transformer": build_flow_transformer(), **parts}).to(training_device())
    tokenizer = build_clip_tokenizer()
    lessons = [
        FlowLesson("flow-single", SINGLE_PLAN, vae, tokenizer, ("Single Objects",), write_caption),
        FlowLesson("flow-scenes", SCENES_PLAN, vae, tokenizer, SHAPES_CATEGORIES, write_caption),
        FlowLesson("flow", WEB_PLAN, vae, tokenizer, SHAPES_CATEGORIES, write_web_caption),
    ]

    def save(target: Path) -> None:
        vae.register_to_config(shift_factor=0.0)  # the pipeline of Stable Diffusion 3 needs one
        pipeline = StableDiffusion3Pipeline(
            vae=vae,
            transformer=network["transformer"],
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=network["text_encoder"],
            text_encoder_2=network["text_encoder_2"],
            text_encoder_3=None,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
        )
        pipeline.to(torch.float16).save_pretrained(target)

    return Pupil(network, lessons, save)


class FlowLesson(GeneratorLesson):
    """The mean squared error of the predicted velocity, at logit-normal times (arXiv 2403.03206, section 3.1)."""

    def add_noise(self, clean_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the latents mixed with noise, the velocity noise - latents (both B, C, H, W), and the timesteps (B,).

        A timestep is 1,000 times sigma, the share of the noise.
        """
        noise_BCHW = torch.randn_like(clean_BCHW)
        sigmas_B = torch.randn(len(clean_BCHW), device=clean_BCHW.device).sigmoid()
        noisy_BCHW = torch.lerp(clean_BCHW, noise_BCHW, sigmas_B[:, None, None, None])
        return noisy_BCHW, noise_BCHW - clean_BCHW, 1000 * sigmas_B

    def predict(self, networks: Any, batch: NoisyLatents) -> Tensor:
        """Return the predicted velocity (B, C, H, W)."""
        text_BTD, pooled_BE = embed_words(networks, batch.words_BT)
        velocity_BCHW: Tensor = networks["transformer"](
            batch.noisy_BCHW, text_BTD, pooled_BE, batch.timesteps_B, return_dict=True
        ).sample
        return velocity_BCHW


def embed_words(networks: Any, words_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings as Stable Diffusion 3's pipeline computes them: text (B, T + 1, D) and pooled (B, E).

    The penultimate hidden states of both encoders are concatenated, followed by a zero token instead of T5's.
    """
    outputs = [networks[name](words_BT, output_hidden_states=True) for name in TEXT_ENCODERS]
    text_BTD = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return pad(text_BTD, (0, 0, 0, NO_T5)), torch.cat([output.text_embeds for output in outputs], dim=-1)

"""A Stable Diffusion, and an SDXL, of a few thousand weights, saved as the big ones are."""

import json
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CAPTIONS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring on grey"]
WIDTH, XL_WIDTH, TOKENS = 16, 8, 12


def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@cache
def _tokenizer() -> CLIPTokenizer:
    """Byte pairs of the captions above. Made once: of equally frequent pairs the trainer takes any."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    learner.train_from_iterator(CAPTIONS, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=learner.get_vocab(), merges=merges, model_max_length=TOKENS)


def _text_encoder(
    tokenizer: CLIPTokenizer,
    kind: type[Any] = CLIPTextModel,
    layers: int = 1,
    width: int = WIDTH,
    projected: int = WIDTH,
) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projected,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _vae(**settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        **settings,
    )


def _unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        **{"cross_attention_dim": WIDTH} | settings,
    )


def xl_pipeline() -> StableDiffusionXLPipeline:
    """Both encoders of their own width, sizes as SDXL's: 16 + 8 wide text, 12 wide pooled, six numbers of 4 each."""
    torch.manual_seed(1)
    tokenizer = _tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=_text_encoder(tokenizer, layers=2),
        text_encoder_2=_text_encoder(tokenizer, CLIPTextModelWithProjection, layers=2, width=XL_WIDTH, projected=12),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=WIDTH + XL_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def refiner_pipeline() -> StableDiffusionXLImg2ImgPipeline:
    """Of the tiny SDXL: its second text encoder, and a UNet that is told an aesthetic score."""
    base = xl_pipeline()
    torch.manual_seed(2)
    return StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=_unet(
            cross_attention_dim=XL_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 5 * 4,
        ),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )

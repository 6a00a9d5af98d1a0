"""The networks of the models that the shipped recipes name, by their published configurations.

So that memory and time can be told before anything is fetched. A configuration in a folder, in the cache or on the hub
comes first. What a configuration here doesn't say has the default of its class.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]
Files = Mapping[str, Settings]
"""A model's configuration files, by name."""


def _clip_text(width: int, layers: int, heads: int, projection: int) -> Settings:
    return {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": projection,
    }


def _clip(text: Settings, width: int, layers: int, heads: int, patch: int) -> Files:
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": 224,
        "projection_dim": text["projection_dim"],
    }
    projection = text["projection_dim"]
    return {
        "config.json": {
            "model_type": "clip",
            "text_config": text,
            "vision_config": vision,
            "projection_dim": projection,
        }
    }


def _blip2(width: int, feed_forward: int, heads: int) -> Files:
    """With a Flan-T5 of 24 layers; vision tower and Q-Former are the defaults of their classes."""
    language = {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": width,
        "d_kv": 64,
        "d_ff": feed_forward,
        "num_heads": heads,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }
    return {"config.json": {"model_type": "blip-2", "text_config": language, "use_decoder_only_language_model": False}}


def _vae(**settings: Any) -> Settings:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        **settings,
    }


def _pipeline(name: str, **networks: tuple[str, str, Settings]) -> Files:
    """A pipeline's index, and the configuration of each of its networks: library, class, settings."""
    index = {"_class_name": name} | {part: [library, kind] for part, (library, kind, _) in networks.items()}
    return {"model_index.json": index} | {f"{part}/config.json": of for part, (_, _, of) in networks.items()}


CLIP_L = _clip_text(768, 12, 12, 768)
CLIP_G = _clip_text(1280, 32, 20, 1280)

SD1 = _pipeline(
    "StableDiffusionPipeline",
    unet=(
        "diffusers",
        "UNet2DConditionModel",
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    vae=("diffusers", "AutoencoderKL", _vae(sample_size=512)),
    text_encoder=("transformers", "CLIPTextModel", CLIP_L),
)

SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}
REFINER_UNET = SDXL_UNET | {
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 1280 + 5 * 256,
}
XL_VAE = _vae(sample_size=1024, force_upcast=True)

SDXL = _pipeline(
    "StableDiffusionXLPipeline",
    unet=("diffusers", "UNet2DConditionModel", SDXL_UNET),
    vae=("diffusers", "AutoencoderKL", XL_VAE),
    text_encoder=("transformers", "CLIPTextModel", CLIP_L),
    text_encoder_2=("transformers", "CLIPTextModelWithProjection", CLIP_G),
)
REFINER = _pipeline(
    "StableDiffusionXLImg2ImgPipeline",
    unet=("diffusers", "UNet2DConditionModel", REFINER_UNET),
    vae=("diffusers", "AutoencoderKL", XL_VAE),
    text_encoder_2=("transformers", "CLIPTextModelWithProjection", CLIP_G),
)

PUBLISHED: Mapping[str, Files] = {
    "CompVis/stable-diffusion-v1-4": SD1,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": SD1,
    "stabilityai/stable-diffusion-xl-base-1.0": SDXL,
    "stabilityai/stable-diffusion-xl-refiner-1.0": REFINER,
    "openai/clip-vit-base-patch16": _clip(_clip_text(512, 12, 8, 512), 768, 12, 12, 16),
    "openai/clip-vit-large-patch14": _clip(CLIP_L, 1024, 24, 16, 14),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": _clip(_clip_text(1024, 24, 16, 1024), 1280, 32, 16, 14),
    "Salesforce/blip2-flan-t5-xl": _blip2(2048, 5120, 32),
    "Salesforce/blip2-flan-t5-xxl": _blip2(4096, 10240, 64),
}

OF_TYPE: Mapping[str, Files] = {"stable-diffusion": SD1, "stable-diffusion-xl": SDXL}
"""What a single file of a generator's type is taken for where no configuration is named."""

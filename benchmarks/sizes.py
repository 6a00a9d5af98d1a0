"""Models of the published sizes with random weights: as fast and as large as the real ones, and worth nothing else.

Their configurations are those that the doctor knows. Only the vocabularies' tokenizers are this project's own, which
costs and saves nothing: a prompt is as many tokens long as the model takes.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from agfsync.models.published import load_published
from agfsync.shapes.training.tokenizers import build_clip_tokenizer, build_word_tokenizer

TOKENS = 77
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_sd15(folder: Path) -> None:
    """Save Stable Diffusion 1.5, with a UNet of 860 M weights."""
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline(
        **_networks("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        tokenizer=_tokenizer(),
        scheduler=scheduler,
        **nothing,
    )
    pipeline.to(torch.bfloat16).save_pretrained(folder)


def save_sdxl(folder: Path) -> None:
    """Save SDXL's base, with a UNet of 2.6 G weights."""
    tokenizers = {"tokenizer": _tokenizer(), "tokenizer_2": _tokenizer()}
    scheduler = EulerDiscreteScheduler(**NOISE)
    pipeline = StableDiffusionXLPipeline(
        **_networks("stabilityai/stable-diffusion-xl-base-1.0"),
        **tokenizers,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.to(torch.bfloat16).save_pretrained(folder)


def save_blip2(folder: Path, language: str = "xxl") -> None:
    """Save BLIP-2 with flan-t5-xl (3.9 G weights) or flan-t5-xxl (12.1 G), whose output is tied to its vocabulary."""
    tokenizer = build_word_tokenizer()
    settings = load_published()["models"][f"Salesforce/blip2-flan-t5-{language}"]["config.json"]
    config = Blip2Config.from_dict({**settings, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")})
    images = BlipImageProcessorPil(size={"height": 224, "width": 224}, do_convert_rgb=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        Blip2ForConditionalGeneration(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    Blip2Processor(images, tokenizer, num_query_tokens=config.num_query_tokens).save_pretrained(folder)


def _networks(model: str) -> dict[str, Any]:
    """Build a pipeline's networks, by their parts in it."""
    files = load_published()["models"][model]
    index: Any = files["model_index.json"]
    parts = {part: named for part, named in index.items() if not part.startswith("_")}
    return {part: _network(*named, files[f"{part}/config.json"]) for part, named in parts.items()}


def _network(library: str, kind: str, settings: Any) -> Any:
    made = getattr(import_module(library), kind)
    if library == "transformers":
        return made(made.config_class(**settings))
    return made.from_config({name: value for name, value in settings.items() if name != "_class_name"})


def _tokenizer() -> Any:
    tokenizer = build_clip_tokenizer()
    tokenizer.model_max_length = TOKENS
    return tokenizer

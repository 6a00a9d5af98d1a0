"""Models of the published sizes with random weights: as fast and as large as the real ones, and worth nothing else.

Their configurations are those that the doctor knows. A folder holds them without weights, and `random_weights` fills
the networks on their device when they are loaded from it: writing and reading 34 GB would take longer than measuring.
The tokenizers are this project's own, which changes no time: a prompt is as many tokens long as the model takes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import init_empty_weights
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Blip2Config,
    Blip2Processor,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5TokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from agfsync.models.dtypes import torch_dtype
from agfsync.models.pretrained import torch_device
from agfsync.models.published import load_published
from agfsync.scorers.vlm import TEMPLATE
from agfsync.shapes.training.tokenizers import build_clip_tokenizer, build_word_tokenizer

CONFIG = "config.json"
TOKENS = 77
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
NOTHING = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
ASKING = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    " <|vision_start|><|image_pad|><|vision_end|> {% else %}{{ c['text'] }}{% endif %}{% endfor %} <|im_end|> "
    "{% endfor %}<|im_start|> assistant"
)
IMAGE_MARKS = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
Configs = Mapping[str, Mapping[str, Any]]
"""Configurations by the names of their files in a pipeline's folder."""

# Each network of a few thousand weights: for a test of this script on a CPU.
_TINY_CLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32
}  # fmt: skip
_TINY_VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
_TINY_UNET = {"block_out_channels": [32, 64, 64], "layers_per_block": 1, "attention_head_dim": 2}
_TINY_T5 = {"d_model": 64, "d_kv": 8, "d_ff": 64, "num_heads": 2, "num_layers": 2}
_TINY_QWEN3 = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 28, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
_TINY_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
_TINY_BLIP2 = {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "qformer_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "encoder_hidden_size": 32,
    },
    "text_config": {**_TINY_T5, "num_decoder_layers": 2},
}  # fmt: skip
_TINY_VLM = {
    "text_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    },
    "vision_config": {**_TINY_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 2304},
}  # fmt: skip


@dataclass(frozen=True)
class TrainingSize:
    """The pairs of a step, and whether activations are computed again: what fits on 80 GB by the doctor's reckoning."""

    pairs: int
    checkpointing: bool


@dataclass(frozen=True)
class GeneratorSize:
    """A generator: its hub id, its type in the catalog, how it draws, and how it is trained."""

    model: str
    type: str
    scheduler: Any
    tokenizers: Mapping[str, Callable[[], Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    tiny: Configs = field(default_factory=dict)
    images: int = 8
    """drawn at a time"""
    lora: TrainingSize = TrainingSize(2, False)
    whole: TrainingSize | None = TrainingSize(2, True)
    """None: more than a card of 80 GB holds"""


def build_prompt_tokenizer() -> Any:
    """Return CLIP's."""
    tokenizer = build_clip_tokenizer()
    tokenizer.model_max_length = TOKENS
    return tokenizer


def build_t5_tokenizer() -> Any:
    """Return a tokenizer of one token a word, as sentencepiece's unigrams."""
    words = [word for word in build_word_tokenizer().get_vocab() if word.isalpha()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in sorted(words))]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)


def build_byte_tokenizer() -> Any:
    """Return Qwen's, of one token a byte."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: number for number, token in enumerate([*specials, *bytes_to_unicode().values()])}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=specials[1:], model_max_length=4096)
    made.chat_template = CHAT
    return made


_CLIP = {"tokenizer": build_prompt_tokenizer}
_FLOW = FlowMatchEulerDiscreteScheduler
GENERATORS = {
    "sd15": GeneratorSize(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "stable-diffusion",
        DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
        _CLIP,
        index=NOTHING,
        tiny={
            "unet": {**_TINY_UNET, "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "sample_size": 8},
            "vae": _TINY_VAE,
            "text_encoder": _TINY_CLIP,
        },
        lora=TrainingSize(8, False),
        whole=TrainingSize(8, False),
    ),
    "sdxl": GeneratorSize(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stable-diffusion-xl",
        EulerDiscreteScheduler(**NOISE),
        {**_CLIP, "tokenizer_2": build_prompt_tokenizer},
        index={"force_zeros_for_empty_prompt": True},
        tiny={
            "unet": {
                **_TINY_UNET,
                "transformer_layers_per_block": [1, 1, 2],
                "cross_attention_dim": 64,
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 32 + 6 * 8,
                "sample_size": 8,
            },
            "vae": _TINY_VAE,
            "text_encoder": _TINY_CLIP,
            "text_encoder_2": _TINY_CLIP,
        },
        whole=TrainingSize(4, True),
    ),
    "sd35": GeneratorSize(
        "stabilityai/stable-diffusion-3.5-medium",
        "stable-diffusion-3",
        _FLOW(shift=3.0),
        {**_CLIP, "tokenizer_2": build_prompt_tokenizer, "tokenizer_3": build_t5_tokenizer},
        settings={"guidance": 4.5},
        tiny={
            "transformer": {
                "num_layers": 2,
                "num_attention_heads": 2,
                "attention_head_dim": 16,
                "joint_attention_dim": 64,
                "caption_projection_dim": 32,
                "pooled_projection_dim": 64,
                "pos_embed_max_size": 16,
                "dual_attention_layers": [0],
                "sample_size": 8,
            },
            "vae": _TINY_VAE,
            "text_encoder": _TINY_CLIP,
            "text_encoder_2": _TINY_CLIP,
            "text_encoder_3": _TINY_T5,
        },
        images=4,
    ),
    "flux": GeneratorSize(
        "black-forest-labs/FLUX.1-dev",
        "flux",
        _FLOW(shift=3.0, use_dynamic_shifting=True),
        {**_CLIP, "tokenizer_2": build_t5_tokenizer},
        settings={"guidance": 3.5},
        tiny={
            "transformer": {
                "num_layers": 1,
                "num_single_layers": 1,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 64,
                "pooled_projection_dim": 32,
                "axes_dims_rope": [4, 6, 6],
            },
            "vae": _TINY_VAE,
            "text_encoder": _TINY_CLIP,
            "text_encoder_2": _TINY_T5,
        },
        images=4,
        lora=TrainingSize(2, True),
        whole=None,
    ),
    "klein": GeneratorSize(
        "black-forest-labs/FLUX.2-klein-base-4B",
        "flux2-klein",
        _FLOW(shift=3.0, use_dynamic_shifting=True),
        {"tokenizer": build_byte_tokenizer},
        settings={"guidance": 4.0},
        index={"is_distilled": False},
        tiny={
            "transformer": {
                "num_layers": 1,
                "num_single_layers": 1,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 48,
                "axes_dims_rope": [4, 4, 4, 4],
            },
            "vae": _TINY_VAE,
            "text_encoder": _TINY_QWEN3,
        },
        images=4,
        lora=TrainingSize(2, True),
        whole=None,
    ),
}


def write_generator(size: GeneratorSize, folder: Path, tiny: bool = False) -> None:
    """Write a pipeline's folder: the configurations of its networks, its tokenizers and its scheduler."""
    published: Any = load_published()["models"][size.model]
    index: dict[str, Any] = {**published["model_index.json"], **size.index}
    for part, named in published["model_index.json"].items():
        if part.startswith("_"):
            continue
        settings = {**published[f"{part}/{CONFIG}"], **(size.tiny.get(part, {}) if tiny else {})}
        (folder / part).mkdir()
        (folder / part / CONFIG).write_text(json.dumps({**settings, "_class_name": named[1]}))
    for part, build in size.tokenizers.items():
        tokenizer = build()
        tokenizer.save_pretrained(folder / part)
        index[part] = ["transformers", type(tokenizer).__name__]
    size.scheduler.save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", type(size.scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))


def write_blip2(folder: Path, language: str, tiny: bool = False) -> None:
    """Write the folder of BLIP-2 with flan-t5-xl (3.9 G weights) or flan-t5-xxl (12.1 G)."""
    tokenizer = build_word_tokenizer()
    settings = _shrink(_read_published(f"Salesforce/blip2-flan-t5-{language}"), _TINY_BLIP2 if tiny else {})
    config = Blip2Config.from_dict({**settings, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")})
    config.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 224, "width": 224}, do_convert_rgb=True)
    Blip2Processor(images, tokenizer, num_query_tokens=config.num_query_tokens).save_pretrained(folder)


def write_qwen3_vl(folder: Path, tiny: bool = False) -> None:
    """Write the folder of Qwen3-VL-8B, which sees 1024 tokens of an image of 1024 x 1024 pixels."""
    tokenizer = _build_asking_tokenizer()
    tokenizer.save_pretrained(folder)
    marks = zip(("vision_start", "image", "video", "vision_end"), IMAGE_MARKS, strict=True)
    numbers = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks}
    settings = _shrink(_read_published("Qwen/Qwen3-VL-8B-Instruct"), _TINY_VLM if tiny else {})
    AutoConfig.for_model(**settings, **numbers).save_pretrained(folder)
    pixels = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}
    Qwen2VLImageProcessorPil(patch_size=16, temporal_patch_size=2, merge_size=2, size=pixels).save_pretrained(folder)


@contextmanager
def random_weights(device: torch.device) -> Iterator[None]:
    """Within, networks are not read from files but filled on `device` with random weights."""

    def load_part(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype, name: str) -> Any:
        with init_empty_weights(include_buffers=False):
            if issubclass(kind, ModelMixin):
                network = kind.from_config(kind.load_config(str(folder), local_files_only=True))
            else:
                network = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
        return fill_randomly(network, dtype, device)

    def load_model(kind: Any, model: str, revision: str | None, dtype: str, placed: str) -> Any:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            network = kind.from_config(config) if kind is AutoModelForImageTextToText else kind(config)
        return fill_randomly(network, torch_dtype(dtype, torch_device(placed)), device).to(device).eval()

    loading = patch("agfsync.models.loading.load_part", load_part)
    with loading, patch("agfsync.models.pretrained.load_model", load_model):
        yield


@torch.no_grad()
def fill_randomly(network: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Give the weights of `network` that are on the meta device random values, of such a size that results stay finite.

    Matrices and kernels keep the variance of what they multiply; vectors are ones, or zeros if they are added.
    """
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is None or not weight.is_meta:
                continue
            filled = torch.empty(weight.shape, dtype=dtype, device=device)
            if weight.dim() > 1:
                filled.normal_(0, weight[0].numel() ** -0.5)
            else:
                filled.fill_(0.0 if "bias" in name else 1.0)
            module._parameters[name] = nn.Parameter(filled, requires_grad=weight.requires_grad)
    if hasattr(network, "tie_weights"):
        network.tie_weights()
    return network


def _read_published(model: str) -> Mapping[str, Any]:
    return load_published()["models"][model][CONFIG]


def _shrink(settings: Mapping[str, Any], tiny: Configs) -> dict[str, Any]:
    return {**settings, **{part: {**settings.get(part, {}), **smaller} for part, smaller in tiny.items()}}


@cache
def _build_asking_tokenizer() -> Any:
    """Return a tokenizer of one token a word with a chat template that shows an image."""
    splitter = pre_tokenizers.Whitespace()
    texts = [TEMPLATE, "user assistant yes no Yes No", *build_word_tokenizer().get_vocab()]
    marks = ["<|im_start|>", "<|im_end|>", *IMAGE_MARKS]
    words = dict.fromkeys([*marks, "<unk>", *(word for text in texts for word, _ in splitter.pre_tokenize_str(text))])
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = splitter
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|im_end|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=marks,
        chat_template=ASKING,
    )

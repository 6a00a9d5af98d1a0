"""Tiny vision-language models of four families with random weights, saved as the big ones are.

Their image processors, towers, placeholders and attention differ: patches at the image's own size (qwen2_5_vl), a
sliding window and an image that sees itself both ways (gemma3), tiles with a padding mask (idefics3, SmolVLM's), tiles
with a thumbnail (internvl).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLModel,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MARKS = ("<pad>", "<end>", "<unk>", "<start>", "yes", "no", "Yes", "No")
WORDS = """
user assistant is are there a the red blue green circle star square of left two Does this figure show Please answer or
Answer with one word ? : , . " in
"""
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_vlm(folder: Path, family: str) -> None:
    """Save a model of `family`, one of `FAMILIES`, with its processor."""
    torch.manual_seed(0)
    model = FAMILIES[family](folder)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)


def _template(image: str) -> str:
    return (
        "{% for m in messages %}<start> {{ m['role'] }} : {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}{% endfor %} <end> {% endfor %}"
        "{% if add_generation_prompt %}<start> assistant :{% endif %}"
    )


def _tokenizer(image: str, marks: tuple[str, ...], named: Mapping[str, str] | None = None) -> Any:
    words = dict.fromkeys([*MARKS, *marks, *WORDS.split()])
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (*MARKS[:4], *marks)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        additional_special_tokens=["<start>", *marks],
        extra_special_tokens=dict(named or {}),
        chat_template=_template(image),
    )


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return TEXT | {"vocab_size": len(tokenizer)} | more


def _qwen(folder: Path) -> nn.Module:
    vision = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
    windows = {"window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(_qwen_config(Qwen2_5_VLConfig, vision | windows, folder))


def save_hpsv3(folder: Path, weights: Path) -> None:
    """Save a Qwen2-VL's configuration and processor in `folder`, and HPSv3's tensors by their published names."""
    vision = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "depth": 1}
    config = _qwen_config(Qwen2VLConfig, vision, folder, num_hidden_layers=1)
    config.save_pretrained(folder)
    config.text_config.vocab_size += 1
    torch.manual_seed(0)
    model = Qwen2VLModel(config)
    head = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Dropout(0.05), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2))
    for weight in (*model.parameters(), *head.parameters()):
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.15)
    tensors = {name.replace("language_model.", "model."): each for name, each in model.state_dict().items()}
    tensors |= {f"rm_head.{name}": each for name, each in head.state_dict().items()}
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, weights)


def _qwen_config(kind: Any, vision: Mapping[str, Any], folder: Path, **text: Any) -> Any:
    """The configuration of a Qwen-VL of this `kind`, its tokenizer and image processor saved in `folder`."""
    marks = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
    tokenizer = _tokenizer(" <|vision_start|><|image_pad|><|vision_end|> ", marks)
    Qwen2VLImageProcessorPil(
        patch_size=4, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, temporal_patch_size=2, merge_size=2
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return kind(
        text_config=_text(
            tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}, **text
        ),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4} | dict(vision),
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark)
            for name, mark in zip(("vision_start", "image", "video", "vision_end"), marks, strict=True)
        },
    )


def _gemma(folder: Path) -> nn.Module:
    named = {"boi_token": "<boi>", "image_token": "<soft>", "eoi_token": "<eoi>"}
    tokenizer = _tokenizer(" <boi> ", tuple(named.values()), named)
    config = Gemma3Config(
        # A window that is shorter than an image with its question, and longer than the image.
        text_config=_text(tokenizer, head_dim=8, sliding_window=24, sliding_window_pattern=2),
        vision_config=TOWER | {"image_size": 32, "patch_size": 4, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=16,
        **{f"{name}_index": tokenizer.convert_tokens_to_ids(mark) for name, mark in named.items()},
    )
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    Gemma3Processor(images, tokenizer, image_seq_length=16, chat_template=tokenizer.chat_template).save_pretrained(
        folder
    )
    return Gemma3ForConditionalGeneration(config)


def _idefics(folder: Path) -> nn.Module:
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    marks = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles)
    tokenizer = _tokenizer(" <image> ", marks)
    config = Idefics3Config(
        text_config=_text(tokenizer, model_type="llama"),
        vision_config=TOWER | {"image_size": 32, "patch_size": 4},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, tokenizer, image_seq_len=16, chat_template=tokenizer.chat_template).save_pretrained(
        folder
    )
    return Idefics3ForConditionalGeneration(config)


def _internvl(folder: Path) -> nn.Module:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<context>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(" <context> ", tuple(named.values()), named)
    config = InternVLConfig(
        text_config=_text(tokenizer, model_type="qwen2"),
        vision_config=TOWER | {"image_size": [32, 32], "patch_size": [4, 4]},
        image_token_id=tokenizer.convert_tokens_to_ids("<context>"),
        image_seq_length=16,
    )
    GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=4
    ).save_pretrained(folder)
    (folder / "processor_config.json").write_text('{"image_seq_length": 16, "processor_class": "InternVLProcessor"}')
    tokenizer.save_pretrained(folder)
    return InternVLForConditionalGeneration(config)


FAMILIES: Mapping[str, Callable[[Path], Any]] = {
    "qwen2_5_vl": _qwen,
    "gemma3": _gemma,
    "idefics3": _idefics,
    "internvl": _internvl,
}


def save_parrot(folder: Path, pieces: Sequence[str]) -> None:
    """Save a Qwen2.5-VL that always replies `pieces`, each of them a token: the last token alone decides the next."""
    save_vlm(folder, "qwen2_5_vl")
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer.save_pretrained(folder)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in model.model.language_model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    words = model.get_input_embeddings().weight.data.normal_(generator=torch.Generator().manual_seed(0))
    chain = [tokenizer.convert_tokens_to_ids(token) for token in (":", *pieces, "<end>")]
    nn.init.zeros_(model.lm_head.weight)
    for before, after in pairwise(chain):
        model.lm_head.weight.data[after] = words[before]
    model.save_pretrained(folder)

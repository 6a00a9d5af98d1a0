"""Tiny language models that say what they are told to, in the files that `transformers serve` reads.

Their one layer passes its input through, and the head maps each token onto the next: what comes depends on the last
token alone, which is the end of the prompt.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

UNKNOWN, END, PROMPTED, IMAGE = MARKS = ("<unk>", "<eos>", "<go>", "<image>")
SIDE = 16
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}<go>"
)


def save_writer(folder: Path, tokens: Sequence[str], endless: bool = False) -> None:
    """Save a model that says `tokens`, none of them twice, and then ends, or with `endless` says them again."""
    model = LlamaForCausalLM(_text_config(tokens))
    _teach(model, tokens, endless)
    model.save_pretrained(folder)
    _tokenizer(tokens).save_pretrained(folder)


def save_onlooker(folder: Path, tokens: Sequence[str], endless: bool = False) -> None:
    """Save a vision-language model that says `tokens` of every image, as `save_writer` does."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=8, projection_dim=8)
    place = MARKS.index(IMAGE)
    config = LlavaConfig(
        vision_config=vision, text_config=_text_config(tokens), image_token_index=place, vision_feature_layer=-1
    )
    model = LlavaForConditionalGeneration(config)
    _teach(model, tokens, endless)
    model.generation_config.eos_token_id = MARKS.index(END)
    model.save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side),
        _tokenizer(tokens),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def _text_config(tokens: Sequence[str]) -> LlamaConfig:
    count = len(MARKS) + len(tokens)
    return LlamaConfig(
        vocab_size=count,
        hidden_size=count + count % 2,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=MARKS.index(END),
        bos_token_id=None,
        tie_word_embeddings=False,
    )


def _tokenizer(tokens: Sequence[str]) -> Any:
    vocabulary = {word: number for number, word in enumerate([*MARKS, *tokens])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[PROMPTED, IMAGE],
        chat_template=TEMPLATE,
    )


@torch.no_grad()
def _teach(model: nn.Module, tokens: Sequence[str], endless: bool) -> None:
    """Let the layer add nothing, tell the tokens apart, and map each onto the next one."""
    said = list(range(len(MARKS), len(MARKS) + len(tokens)))
    order = [MARKS.index(PROMPTED), *said, said[0] if endless else MARKS.index(END)]
    for name, weight in model.named_parameters():
        if "vision" not in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
        elif name.endswith("embed_tokens.weight"):
            weight.copy_(torch.eye(*weight.shape))
        elif name.endswith("lm_head.weight"):
            weight.zero_()
            for here, after in pairwise(order):
                weight[after, here] = 5.0

"""The small models' tokenizers, built from the grammar's words."""

import json
import random
from functools import cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from agfsync.shapes.grammar import SHAPES_CATEGORIES, describe_scene, invent_spec, list_questions, write_caption
from agfsync.shapes.training.images import SPOILERS, sample_scene

MAX_TOKENS = 40
"""Length of the text encoders' input; all captions are shorter."""


@cache
def write_corpus() -> tuple[str, ...]:
    """Return captions and questions that together contain every word of the grammar."""
    rng = random.Random("corpus")
    specs = [invent_spec(category, rng) for category in SHAPES_CATEGORIES for _ in range(400)]
    specs += [describe_scene(sample_scene(rng), rng) for _ in range(400)]
    captions = [write_caption(spec, rng) for spec in specs]
    return (*captions, *(query.to_text().lower() for spec in specs for query in list_questions(spec)))


def build_word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per word, as T5 expects it: 0 pads, </s> ends, <image> marks a query token.

    Blip2Processor itself declares <image> special, and rejects a tokenizer in which it already is.
    """
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in write_corpus() for word, _ in splitter.pre_tokenize_str(text)} | {"yes", "no"})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "<image>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = splitter
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def build_clip_tokenizer() -> CLIPTokenizer:
    """Return a byte-pair encoding in CLIP's format, trained on the grammar's words; each of them is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Whitespace()])
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False, min_frequency=1)
    inner.train_from_iterator((text.lower() for text in (*write_corpus(), *SPOILERS)), trainer)
    merges = [tuple(merge) for merge in json.loads(inner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)

"""The small models' tokenizers, made from the grammar's own words."""

import json
import random
from functools import cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from agfsync.shapes.grammar import CATEGORIES, describe, invent, questions, write
from agfsync.shapes.training.pictures import any_scene
from agfsync.shapes.training.spoiling import WAYS

MAX_TOKENS = 40
"""Length of the text encoders' input; the longest caption of any category is shorter."""


@cache
def corpus() -> tuple[str, ...]:
    """Captions and questions that between them hold every word of the grammar."""
    rng = random.Random("corpus")
    specs = [invent(category, rng) for category in CATEGORIES for _ in range(400)]
    described = [describe(any_scene(rng), rng) for _ in range(400)]
    texts = [write(spec, rng) for spec in specs + described]
    return (*texts, *(query.text().lower() for spec in specs + described for query in questions(spec)))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, as T5 expects them: 0 pads, </s> ends, <image> stands for a query token.

    Blip2Processor declares <image> special by itself, and can't use a tokenizer that has done so already.
    """
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in corpus() for word, _ in splitter.pre_tokenize_str(text)} | {"yes", "no"})
    specials = ["<pad>", "</s>", "<unk>", "<image>"]
    vocabulary = {word: i for i, word in enumerate([*specials, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = splitter
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's format; its merges are learnt from the grammar, each of whose words is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Whitespace()])
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False, min_frequency=1)
    inner.train_from_iterator((text.lower() for text in (*corpus(), *WAYS)), trainer)
    merges = [tuple(merge) for merge in json.loads(inner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)

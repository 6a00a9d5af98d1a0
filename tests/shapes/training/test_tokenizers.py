import random
import re

import pytest
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from agfsync.shapes.grammar import (
    SHAPES_CATEGORIES,
    describe_scene,
    garble_spec,
    invent_spec,
    list_questions,
    write_caption,
)
from agfsync.shapes.scene import BACKGROUNDS, COLORS, SHAPES
from agfsync.shapes.training.images import sample_captioned_scene
from agfsync.shapes.training.tokenizers import MAX_TOKENS, build_clip_tokenizer, build_word_tokenizer
from agfsync.shapes.words import PLURALS

NOUNS = {*SHAPES, *(PLURALS[shape] for shape in SHAPES)}
WORDS = NOUNS | {*COLORS, *BACKGROUNDS, "two", "three", "four", "a", "an", "with", "stripes", "upper", ","}


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return build_clip_tokenizer()


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return build_word_tokenizer()


def captions(rng: random.Random, count: int) -> list[str]:
    specs = [invent_spec(category, rng) for category in SHAPES_CATEGORIES for _ in range(count)]
    return [write_caption(garble_spec(spec, rng.choice((0.0, 0.4)), rng), rng) for spec in specs]


def asked(rng: random.Random, count: int) -> list[str]:
    specs = [invent_spec(category, rng) for category in SHAPES_CATEGORIES for _ in range(count)]
    return [query.to_text() for spec in specs for query in list_questions(garble_spec(spec, 0.4, rng))]


def test_every_word_is_one_token_of_clips(clip: CLIPTokenizer, rng: random.Random) -> None:
    used = {word for text in captions(rng, 200) for word in re.findall(r"\w+|,", text)} | WORDS
    for word in used:
        ids = clip(word).input_ids
        assert len(ids) == 3 and ids[0] == clip.bos_token_id and ids[-1] == clip.eos_token_id, word


def test_every_word_of_a_question_is_known(words: PreTrainedTokenizerFast, rng: random.Random) -> None:
    for text in [*asked(rng, 60), *captions(rng, 60), "yes", "no"]:
        ids = words(text).input_ids
        assert words.unk_token_id not in ids, text
        assert len(ids) == len(re.findall(r"\w+|[^\w\s]", text)) + 1
        assert ids[-1] == words.eos_token_id


def test_a_foreign_word_is_unknown(words: PreTrainedTokenizerFast) -> None:
    assert words("dog").input_ids == [words.unk_token_id, words.eos_token_id]


def test_captions_come_back_from_their_tokens(clip: CLIPTokenizer, rng: random.Random) -> None:
    for caption in captions(rng, 20):
        assert clip.decode(clip(caption).input_ids, skip_special_tokens=True).replace(" ,", ",") == caption


def test_captions_fit_and_so_do_nearly_all_descriptions(clip: CLIPTokenizer, rng: random.Random) -> None:
    assert max(len(ids) for ids in clip(captions(rng, 200)).input_ids) < MAX_TOKENS
    described = [write_caption(describe_scene(sample_captioned_scene(rng)[1], rng), rng) for _ in range(400)]
    assert sum(len(ids) > MAX_TOKENS for ids in clip(described).input_ids) <= 4


def test_they_are_made_the_same_each_time(clip: CLIPTokenizer, words: PreTrainedTokenizerFast) -> None:
    assert build_clip_tokenizer().get_vocab() == clip.get_vocab()
    assert build_word_tokenizer().get_vocab() == words.get_vocab()

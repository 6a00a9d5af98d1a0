"""What captions and questions cost of a language model: requests, tokens and money, from the very prompts.

A token is taken for four characters. Where a length or a number hangs on what the model writes, it is the paper's.
"""

import json
from dataclasses import dataclass
from typing import Any

from agfsync import catalog
from agfsync.formats.sources import SourceCaptions, read_pair_prompts
from agfsync.language import captions, questions
from agfsync.language.captions import CAPTION_CATEGORIES
from agfsync.recipe import LanguageModel, Recipe
from agfsync.records import Caption
from agfsync.stages.checking import sift

CHARACTERS = 4.0
"""a token"""
QUESTIONS_KEPT = 9.0
"""of a caption: the paper's 414 172 questions on 45 834 captions"""
TOKENS_A_SECOND = 50.0
"""in which a reply is written, each request for itself, after `WAIT`"""
WAIT = 1.0
"""seconds until a reply begins"""
SHAPES, SAMPLED = "shapes", 8
"""the writer that is asked for some captions of each category, and how many"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """All that a stage sends and gets."""

    requests: float
    input: float
    output: float

    def cost(self, model: LanguageModel) -> float | None:
        """By the recipe's prices; None where it has none."""
        prices = model.prices
        if not (prices.input or prices.output):
            return None
        return (self.input * prices.input + self.output * prices.output) / 1e6

    def seconds(self, concurrency: int) -> float:
        """With that many requests at a time."""
        return (self.requests * WAIT + self.output / TOKENS_A_SECOND) / concurrency


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of everything: captions to train on and held out, pairs, questions on a caption."""

    train: int
    held_out: int
    written: int
    """captions that a writer writes"""
    asked: int
    """captions on which a writer asks questions"""
    pairs: int
    questions: float


def counts(recipe: Recipe) -> Counts:
    """By the recipe and the files that it names.

    Raises:
        FormatError: one can't be read.
    """
    given = len(read_pair_prompts(recipe.pairs.source, recipe.pairs.split)) if recipe.pairs.source else None
    train = recipe.captions.count if given is None else given
    held_out = recipe.captions.held_out
    drawn = recipe.captions.count if given is None else 0
    prompts = SourceCaptions(recipe.captions.source, split=recipe.captions.split) if recipe.captions.source else None
    found = _found(prompts) if prompts else []
    share = sum(1 for each in found if each) / len(found) if found else 0.0
    kept = [each for each in found if each]
    return Counts(
        train=train,
        held_out=held_out,
        written=0 if prompts else drawn + held_out,
        asked=round((1 - share) * (drawn + held_out)),
        pairs=train,
        questions=sum(kept) / len(kept) if kept else _sampled(recipe),
    )


def _found(prompts: SourceCaptions) -> list[int]:
    """How many questions a file has on each of its captions."""
    texts = [t for category in prompts.categories for t in prompts.captions(category, prompts.rooms[category], (), 0)]
    return [len(prompts.questions_on(text)[0]) for text in texts]


def _sampled(recipe: Recipe) -> float:
    """Questions that a caption keeps: the Shapes world's writer is asked for some, of a language model nobody knows."""
    if (recipe.captions.writer.type, recipe.questions.writer.type, recipe.captions.source) != (SHAPES, SHAPES, None):
        return QUESTIONS_KEPT
    writer: Any = catalog.find("captions", SHAPES)()
    asker: Any = catalog.find("questions", SHAPES)()
    texts = [text for category in writer.categories for text in writer.captions(category, SAMPLED, (), 0)]
    kept = [len(sift(Caption("", text, "", "train"), asker.questions(text, 0))[0]) for text in texts]
    return sum(kept) / len(kept)


def caption_tokens(written: int) -> Tokens:
    """Of captions in the twelve categories, ten a request; some will be repeated, which isn't reckoned."""
    each = written / len(CAPTION_CATEGORIES)
    requests = len(CAPTION_CATEGORIES) * max(1.0, -(-each // captions.CAPTIONS_PER_REQUEST))
    count = max(captions.FEWEST_CAPTIONS, min(captions.CAPTIONS_PER_REQUEST, each))
    exemplars = [text for about in CAPTION_CATEGORIES.values() for text in about.exemplars]
    length = sum(map(len, exemplars)) / len(exemplars)
    about = sum(len(each.about) for each in CAPTION_CATEGORIES.values()) / len(CAPTION_CATEGORIES)
    instructions = captions.CAPTION_INSTRUCTIONS.format(
        lengths="; ".join(f"3 {each}" for each in captions.CAPTION_LENGTHS)
    )
    shown = min(captions.CAPTIONS_SHOWN, each / 2) + 5
    sent = len(instructions) + _schema(captions.Descriptions) + about + shown * (length + 4) + 90
    return Tokens(requests, requests * sent / CHARACTERS, requests * (count * (length + 4) + 20) / CHARACTERS)


def question_tokens(asked: int, rounds: int, verify: bool) -> Tokens:
    """Of rounds of at least fifteen questions a caption, and of their second reading."""
    caption = 6.0 * 26
    """characters: the paper's captions have 26 words"""
    sample = questions.Draft(
        question_id="10",
        question="Is there a small wooden boat on the lake?",
        answer="yes",
        element="small wooden boat",
        element_type="object",
        flag="1",
    )
    sent = len(questions.QUESTION_INSTRUCTIONS) + _schema(questions.Round) + caption + 15
    replied = questions.QUESTIONS_PER_ROUND * (len(sample.model_dump_json()) + 12)
    tokens = Tokens(asked * rounds, asked * rounds * sent / CHARACTERS, asked * rounds * (replied + 18) / CHARACTERS)
    if not verify:
        return tokens
    read = len(questions.VERIFY_INSTRUCTIONS) + _schema(questions.Verdicts) + caption + QUESTIONS_KEPT * 70
    said = QUESTIONS_KEPT * len('{"number": 1, "answer": "yes"}, ') + 16
    return Tokens(
        tokens.requests + asked,
        tokens.input + asked * read / CHARACTERS,
        tokens.output + asked * said / CHARACTERS,
    )


def _schema(shape: Any) -> int:
    """Characters of a reply's schema, which servers put among the messages."""
    return len(json.dumps(shape.model_json_schema()))

"""Counts of captions, pairs and questions, from the recipe and the files that it names."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from agfsync import catalog
from agfsync.formats.sources import SourceCaptions, read_pair_prompts
from agfsync.language.tokens import QUESTIONS_KEPT
from agfsync.recipe import HELD_OUT, Recipe
from agfsync.records import Caption
from agfsync.stages.checking import sift_questions

_SHAPES, _SAMPLED = "shapes", 8
"""the writer that is sampled, and the number of sampled captions of each category"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of captions to train on, of those held out, of pairs, and of questions on a caption."""

    train: int
    held_out: int
    evaluated: int
    """captions of all evaluation sets; one that is in two sets counts twice"""
    written: int
    """captions that a writer writes"""
    polished: int
    """captions that a polisher rewrites"""
    asked: int
    """captions on which a writer asks questions"""
    pairs: int
    """enough to hold all images that training encodes: for a caption at most half its candidates"""
    questions: float


def count_items(recipe: Recipe) -> Counts:
    """Return the counts of the recipe and of the files that it names.

    Raises:
        FormatError: one cannot be read.
    """
    settings, pairs = recipe.captions, recipe.pairs
    train = len(read_pair_prompts(pairs.source, pairs.split)) if pairs.source else settings.count
    needed = settings.held_out + (0 if pairs.source else settings.count)
    given = _count_given_questions(SourceCaptions(settings.source, split=settings.split)) if settings.source else []
    kept = [count for count in given if count]
    share = len(kept) / len(given) if given else 0.0
    return Counts(
        train=train,
        held_out=settings.held_out,
        evaluated=_count_evaluated(recipe),
        written=0 if settings.source else needed,
        polished=0 if settings.polish is None else needed,
        asked=needed if settings.polish is not None else round((1 - share) * needed),
        pairs=ceil(pairs.share * train * (1 if pairs.source else _count_pairs_of_caption(recipe))),
        questions=sum(kept) / len(kept) if kept else _sample_questions(recipe),
    )


def _count_evaluated(recipe: Recipe) -> int:
    sets = recipe.evaluation.sets
    of_files = [
        min(total := sum(SourceCaptions(each.source, split=each.split).rooms.values()), each.count or total)
        for each in sets.values()
        if each.source
    ]
    return sum(of_files) + (recipe.captions.held_out if HELD_OUT in sets else 0)


def _count_pairs_of_caption(recipe: Recipe) -> int:
    candidates = recipe.candidates.per_caption * len(recipe.drawing_models)
    return min(recipe.pairs.choose.count_most_pairs(candidates), candidates // 2)


def _count_given_questions(prompts: SourceCaptions) -> list[int]:
    """Return the number of a file's questions on each of its captions."""
    texts = [t for category in prompts.categories for t in prompts.captions(category, prompts.rooms[category], (), 0)]
    return [len(prompts.questions_on(text)[0]) for text in texts]


def _sample_questions(recipe: Recipe) -> float:
    """Return the mean number of questions kept for a caption.

    It is measured on a sample if the Shapes world's writer writes, else it is `QUESTIONS_KEPT`.
    """
    if (recipe.captions.writer.type, recipe.questions.writer.type, recipe.captions.source) != (_SHAPES, _SHAPES, None):
        return QUESTIONS_KEPT
    writer: Any = catalog.find("captions", _SHAPES)()
    asker: Any = catalog.find("questions", _SHAPES)()
    texts = [text for category in writer.categories for text in writer.captions(category, _SAMPLED, (), 0)]
    kept = [len(sift_questions(Caption("", text, "", "train"), asker.questions(text, 0))[0]) for text in texts]
    return sum(kept) / len(kept)

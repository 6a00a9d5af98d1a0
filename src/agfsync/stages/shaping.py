"""The part of a recipe that affects each stage's result: one function for each stage, named like it."""

from collections.abc import Mapping
from typing import Any

from agfsync.formats.sources import fingerprint_source
from agfsync.recipe import Recipe, ScorerSettings
from agfsync.stages.context import differences, generator_source, scorer_source
from agfsync.stages.writing import writer_source

UNSHAPING = ("checkpoint_every", "accumulate", "gradient_checkpointing", "trackers")
"""Settings of the training that change no more than the last bits of its result."""


def captions(recipe: Recipe) -> Any:
    shaping = differences(recipe.captions, "writer", "source", "split")
    return recipe.seed, shaping, writer_source("captions", recipe.captions), *_list_sources(recipe)


def questions(recipe: Recipe) -> Any:
    shaping = differences(recipe.questions, "writer")
    return recipe.seed, shaping, writer_source("questions", recipe.questions), *_list_sources(recipe)


def candidates(recipe: Recipe) -> Any:
    models = [generator_source(settings) for settings in recipe.drawing_models]
    return _pair_set(recipe) or (recipe.seed, differences(recipe.candidates, "beside"), *models)


def scores(recipe: Recipe) -> Any:
    return _list_scorers(recipe.candidate_scorers)


def pairs(recipe: Recipe) -> Any:
    return _pair_set(recipe) or differences(recipe.pairs, "source", "split", "repeats")


def training(recipe: Recipe) -> Any:
    shaping = differences(recipe.training, "seed", *UNSHAPING)
    return recipe.training_seed, shaping, generator_source(recipe.model)


def evaluation(recipe: Recipe) -> Any:
    model, scorers = generator_source(recipe.model), _list_scorers(recipe.evaluation_scorers)
    files = [(name, fingerprint_source(each.source)) for name, each in recipe.evaluation.sets.items() if each.source]
    return recipe.seed, differences(recipe.evaluation, "batch"), model, scorers, files


def report(recipe: Recipe) -> Any:
    choice = (recipe.pairs.weights, _list_sources(recipe, "pairs"))
    return recipe.name, differences(recipe.report), *choice, recipe.evaluation.resamples


def _pair_set(recipe: Recipe) -> list[tuple[str, ...]]:
    """Return what the pair set holds and how its judgements are counted; nothing if the run makes its own pairs."""
    return [(*source, recipe.pairs.repeats) for source in _list_sources(recipe, "pairs")]


def _list_sources(recipe: Recipe, *stages: str) -> list[tuple[str, ...]]:
    """Return the digests of the files that `stages`, default all, read, and their split; not where they lie."""
    captions, pairs = recipe.captions, recipe.pairs
    named = {"captions": (captions.source, captions.split), "pairs": (pairs.source, pairs.split)}
    found = [(stage, *each) for stage, each in named.items() if stage in (stages or named)]
    return [(stage, fingerprint_source(source), split) for stage, source, split in found if source]


def _list_scorers(scorers: Mapping[str, ScorerSettings]) -> list[str]:
    return [scorer_source(name, each) for name, each in scorers.items()]

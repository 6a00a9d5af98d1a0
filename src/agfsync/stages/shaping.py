"""The part of a recipe that affects each stage's result: one function for each stage, named like it."""

from collections.abc import Mapping
from typing import Any

from agfsync import catalog
from agfsync.formats.sources import fingerprint_source
from agfsync.recipe import Recipe, ScorerSettings
from agfsync.stages.context import digest_drawing, digest_evaluated, digest_generator, digest_scorer, dump_changes
from agfsync.stages.writing import digest_polisher, digest_writer

NOT_SHAPING_TRAINING = ("checkpoint_every", "accumulate", "gradient_checkpointing", "fsdp", "compile", "trackers")
"""Settings of the training that change at most the last bits of its result."""


def captions(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `captions`."""
    shaping = dump_changes(recipe.captions, "writer", "source", "split", "polish")
    writers = digest_writer("captions", recipe.captions), *digest_polisher(recipe.captions)
    return recipe.seed, shaping, *writers, *_list_sources(recipe)


def questions(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `questions`."""
    shaping = dump_changes(recipe.questions, "writer")
    return recipe.seed, shaping, digest_writer("questions", recipe.questions), *_list_sources(recipe)


def candidates(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `candidates`."""
    shaping = dump_changes(recipe.candidates, "beside")
    return _digest_pair_set(recipe) or (recipe.seed, shaping, *digest_drawing(recipe))


def scores(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `scores`."""
    annotated = any(each.aspect_names for each in recipe.candidate_scorers.values())
    return [*_list_scorers(recipe.candidate_scorers), *([recipe.seed] if annotated else [])]


def pairs(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `pairs`."""
    given = _digest_pair_set(recipe)
    if given and recipe.pairs.share < 1:
        return [*given, ("share", recipe.pairs.share)]
    return given or dump_changes(recipe.pairs, "source", "split", "repeats")


def reward(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `reward`, including its table of accuracies."""
    if recipe.reward is None:
        return None
    return shape_reward_training(recipe), _list_scorers(recipe.reward_judges), recipe.evaluation.resamples, recipe.seed


def shape_reward_training(recipe: Recipe) -> Any:
    """Return the settings that affect the weights of a reward model."""
    section = recipe.reward
    assert section is not None
    network = getattr(section.method, "network", None)
    places = (network.path, network.weights) if network is not None else ()
    shaping = dump_changes(section, "seed", "method", "by", *NOT_SHAPING_TRAINING)
    method = section.method.model_dump(mode="json", exclude={"network": {"device"}}, exclude_defaults=True)
    return recipe.reward_seed, shaping, method, catalog.fingerprint(*places)


def training(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `training`."""
    if recipe.given is not None:
        return digest_evaluated(recipe)
    shaping = dump_changes(recipe.training, "seed", "watch", *NOT_SHAPING_TRAINING)
    reward = () if recipe.training.method.needs == "pairs" else (recipe.reward_weights, recipe.pairs.share)
    start = () if recipe.start is None else (("start", recipe.start.identity, recipe.start.reference),)
    return recipe.training_seed, shaping, digest_generator(recipe.model), *reward, *start, *_list_stopping(recipe)


def evaluation(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `evaluation`."""
    model, scorers = digest_evaluated(recipe)["base"], _list_scorers(recipe.evaluation_scorers)
    files = [(name, fingerprint_source(each.source)) for name, each in recipe.evaluation.sets.items() if each.source]
    # A source is identified by its content, not by its path.
    sets = [(name, dump_changes(each, "source", "pairwise")) for name, each in recipe.evaluation.sets.items()]
    judged = [digest_scorer(name, s.pairwise) for name, s in recipe.evaluation.sets.items() if s.pairwise is not None]
    shaping = dump_changes(recipe.evaluation, "batch", "sets", "controls", "reference", "embedding")
    embedding = recipe.embedding
    embedded = [] if embedding is None else [digest_scorer(embedding, recipe.scorers[embedding])]
    embedded += [fingerprint_source(recipe.evaluation.reference)] if recipe.evaluation.reference else []
    return recipe.seed, shaping, sets, model, scorers, files, *([judged] if judged else ()), *embedded


def controls(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `controls`, in addition to those of the evaluation."""
    return recipe.seed, recipe.evaluation.controls, recipe.evaluation.resamples


def report(recipe: Recipe) -> Any:
    """Return the settings that affect the stage `report`."""
    choice = (recipe.pairs.weights, _list_sources(recipe, "pairs"))
    given = () if recipe.given is None else (recipe.given.names, recipe.given.selected_on)
    checks = [fingerprint_source(each) for each in recipe.report.checks]
    return recipe.name, dump_changes(recipe.report, "checks"), *choice, recipe.evaluation.resamples, *given, *checks


def _list_stopping(recipe: Recipe) -> tuple[Any, ...]:
    """Return the settings that decide when a watched training stops; none if the watch can't stop it."""
    watch = recipe.training.stopping_watch
    return () if watch is None else (recipe.seed, watch.model_dump(), digest_scorer(watch.by, recipe.scorers[watch.by]))


def _digest_pair_set(recipe: Recipe) -> list[tuple[str, ...]]:
    """Return the digest of the pair set and how its judgements are counted; empty if the run makes its own pairs."""
    return [(*source, recipe.pairs.repeats) for source in _list_sources(recipe, "pairs")]


def _list_sources(recipe: Recipe, *stages: str) -> list[tuple[str, ...]]:
    """Return the digests and splits of the files that `stages` (default: all) read, without their paths."""
    captions, pairs = recipe.captions, recipe.pairs
    named = {"captions": (captions.source, captions.split), "pairs": (pairs.source, pairs.split)}
    found = [(stage, *each) for stage, each in named.items() if stage in (stages or named)]
    return [(stage, fingerprint_source(source), split) for stage, source, split in found if source]


def _list_scorers(scorers: Mapping[str, ScorerSettings]) -> list[str]:
    return [digest_scorer(name, each) for name, each in scorers.items()]

"""Whether all that a recipe names is there, told before anything runs."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from agfsync import catalog
from agfsync.config import Recipe
from agfsync.errors import AgfsyncError, RecipeError
from agfsync.formats import PairSet, PromptFile
from agfsync.packages import need, need_trackers
from agfsync.pipeline.order import NAMES
from agfsync.sources import check_source
from agfsync.stages.writing import writer_source


def faults(recipe: Recipe) -> list[AgfsyncError]:
    """All that the recipe names and that isn't there, as far as can be told without loading it."""
    found: list[AgfsyncError] = []
    for check in _checks(recipe):
        try:
            check()
        except AgfsyncError as fault_:
            found.append(fault_)
    return found


def check_names(recipe: Recipe) -> None:
    """At the start, and not hours later, when it is the stage's turn."""
    for check in _checks(recipe):
        check()


def _checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    for section, kind in ((recipe.captions, PromptFile), (recipe.pairs, PairSet)):
        if section.source:
            yield partial(check_source, Path(section.source), kind, section.split)
    yield partial(writer_source, "captions", recipe.captions)
    yield partial(writer_source, "questions", recipe.questions)
    for generator in recipe.candidates.generators:
        yield partial(catalog.check, "generators", generator.model_dump())
    for settings in (recipe.scores.scorers | recipe.evaluation.judges).values():
        yield partial(catalog.check, "scorers", settings.model_dump())
    yield partial(catalog.check, "methods", {"type": recipe.training.method.type})
    if recipe.training.optimizer == "adamw8bit":
        yield partial(need, "bitsandbytes", "training.optimizer adamw8bit")
    if recipe.engine.type == "ray":
        yield partial(need, "ray", "engine ray")
    yield partial(need_trackers, recipe.training.trackers)


def check_training(recipe: Recipe, last: str) -> None:
    """Before anything is drawn, where a run up to the stage `last` would train what can't be trained."""
    kind = recipe.candidates.generator.type
    if kind in catalog.DRAWN_ONLY and NAMES.index(last) >= NAMES.index("training"):
        raise RecipeError(
            f"a generator of the type {kind} draws and is scored, but can't be trained yet: "
            f"`agfsync run ... --until pairs` goes as far as it can"
        )

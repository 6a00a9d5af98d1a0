"""Whether all that a recipe names is there, told before anything runs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from agfsync import catalog
from agfsync.engine.packages import require_package, require_trackers
from agfsync.errors import AgfsyncError
from agfsync.formats import PairSet, PromptFile
from agfsync.formats.sources import check_source
from agfsync.pipeline.generators import check_drawing, check_trainable
from agfsync.pipeline.order import NAMES
from agfsync.recipe import GeneratorSettings, Recipe
from agfsync.stages.writing import writer_source


def faults(recipe: Recipe) -> list[AgfsyncError]:
    """All that the recipe names and that isn't there, as far as can be told without loading it."""
    found: list[AgfsyncError] = []
    for check in _checks(recipe):
        try:
            check()
        except AgfsyncError as fault_:
            found.append(fault_)
    told = {str(fault_) for fault_ in found}
    return [*found, *(fault_ for fault_ in generator_faults(recipe) if str(fault_) not in told)]


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
        yield partial(require_package, "bitsandbytes", "training.optimizer adamw8bit")
    if recipe.engine.type == "ray":
        yield partial(require_package, "ray", "engine ray")
    yield partial(require_trackers, recipe.training.trackers)


def generator_faults(
    recipe: Recipe, stages: Collection[str] = NAMES, *, may_load: bool = False
) -> Iterator[AgfsyncError]:
    """Yield what keeps `stages` from drawing with the generators that they load, or from training the first.

    `may_load`: a generator of another package is made where there is no other way to know.
    """
    for settings in _loaded_generators(recipe, stages):
        try:
            reason = check_drawing(settings)
            if "training" in stages and settings is recipe.candidates.generator:
                check_trainable(settings, reason, may_load=may_load)
        except AgfsyncError as fault_:
            yield fault_


def _loaded_generators(recipe: Recipe, stages: Collection[str]) -> Sequence[GeneratorSettings]:
    """Return the generators that `stages` load: only the candidates' stage the ones beside, unless a pair set is it."""
    if "candidates" in stages and recipe.pairs.source is None:
        return recipe.candidates.generators
    return [recipe.candidates.generator] if {"training", "evaluation"} & set(stages) else []


def check_generators(recipe: Recipe, stages: Collection[str]) -> None:
    """See, before anything is written or drawn, that `stages` can draw and train.

    Raises:
        ModelError: they can't.
    """
    for fault_ in generator_faults(recipe, stages, may_load=True):
        raise fault_

"""Checks that the sections of a recipe agree with each other."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agfsync.recipe.base import HELD_OUT
from agfsync.recipe.models import StableDiffusionSettings
from agfsync.recipe.scorers import OWN_REWARD

if TYPE_CHECKING:
    from agfsync.recipe.evaluation import EvaluationSet
    from agfsync.recipe.recipe import Recipe
    from agfsync.recipe.rounds import Rounds
    from agfsync.recipe.training import Watch


def check_agreement(recipe: "Recipe") -> None:
    """Check that the sections of a recipe agree with each other, and name only existing scorers and sets.

    Raises:
        ValueError: they don't; the message names the key and the remedy.
    """
    known = ", ".join(recipe.score_sources)
    if recipe.training.noise == "tracked" and (recipe.pairs.source or recipe.candidates.beside):
        raise ValueError(
            "training.noise tracked needs the seeds of images that the trained model has drawn: leave out "
            "pairs.source and candidates.beside"
        )
    if isinstance(recipe.model, StableDiffusionSettings) and (recipe.training.times or recipe.training.shift):
        raise ValueError(
            f"training.times and training.shift are a flow model's, and {recipe.model.type} has the timesteps of its "
            f"scheduler: leave them out"
        )
    method, quantization = recipe.training.method, recipe.model.quantization
    if quantization and method.trains == "model" and method.type != "none" and recipe.training.lora is None:
        raise ValueError(
            f"model.quantization {quantization}: weights of few bits can't be trained: add training.lora, such as "
            f"{{rank: 16}}, or leave it out"
        )
    if quantization in ("int8", "fp8") and recipe.training.compile:
        raise ValueError(
            f"training.compile: PyTorch compiles no gradient through {quantization} weights (torchao's): leave it out, "
            f"or set model.quantization to nf4"
        )
    if recipe.model.compile and recipe.steering is not None:
        raise ValueError(
            f"model.compile: {recipe.training.method.type} changes the attention as it draws: leave it out"
        )
    for place, names, takes_aspects in _list_named_scorers(recipe):
        for name in names:
            if name not in recipe.score_sources:
                raise ValueError(f"{place} names no scorer '{name}': scorers has {known}")
            if not takes_aspects and recipe.find_scorer(name).aspect_names:
                raise ValueError(
                    f"{place} names '{name}', an annotator, which compares a caption's candidates and judges no "
                    f"image by itself: name another scorer"
                )
    _check_sets(recipe)
    if not recipe.captions.count and not recipe.pairs.source and recipe.training.method.needs != "nothing":
        raise ValueError("captions.count 0 leaves nothing to train on: ask for captions, or name a pair set")
    if (recipe.evaluation.per_caption > 1 or recipe.evaluation.reference) and recipe.embedding not in recipe.scorers:
        raise ValueError(
            "evaluation.per_caption and evaluation.reference are measured in the embeddings of a scorer of type clip: "
            f"name it under evaluation.embedding; scorers has {', '.join(recipe.scorers)}"
        )
    if recipe.training.watch is not None:
        _check_watch(recipe, recipe.training.watch)
    _check_reward(recipe)
    if recipe.rounds is not None:
        _check_rounds(recipe, recipe.rounds)


def _check_rounds(recipe: "Recipe", rounds: "Rounds") -> None:
    method = recipe.training.method
    if method.trains != "model" or method.type == "none":
        raise ValueError(f"rounds: {method.type} trains no model that could draw the next round's candidates")
    if recipe.pairs.source:
        raise ValueError("rounds: the pairs of a source are the same in every round: leave out pairs.source")
    if (stop := rounds.stop) is None:
        return
    if stop.set not in recipe.evaluation.sets or stop.by not in recipe.set_scorers(stop.set):
        raise ValueError(f"rounds.stop: no scorer '{stop.by}' judges an evaluation set '{stop.set}'")
    if stop.set == HELD_OUT and not recipe.captions.held_out:
        raise ValueError("rounds.stop measures on held-out captions: set captions.held_out")
    _check_is_not_trained_on(recipe, "rounds.stop.by", stop.by)


def _check_is_not_trained_on(recipe: "Recipe", place: str, judge: str) -> None:
    """Refuse a judge that the method trains on, the same one under another name, and the run's own reward model."""
    if recipe.scorers[judge].is_own:
        raise ValueError(
            f"{place} names '{judge}', the run's own reward model, which learnt from the same pairs: "
            f"name a scorer that nothing trains on"
        )
    for name in recipe.teachers:
        if recipe.scorers.get(name) == recipe.scorers[judge]:
            same = "" if name == judge else f", the same scorer as '{name}'"
            raise ValueError(
                f"{place} names '{judge}'{same}, which the method learns from: name a scorer that nothing trains on"
            )


def _check_reward(recipe: "Recipe") -> None:
    """Refuse a reward model as the method of `training`, and scores by a reward model that isn't trained yet."""
    method = recipe.training.method
    if method.trains == "reward":
        raise ValueError(f"training.method {method.type} trains a reward model: give it in a section reward")
    own = {name for name, settings in recipe.scorers.items() if settings.is_own}
    if own and recipe.reward is None:
        raise ValueError(f"scorers.{min(own)} has the path {OWN_REWARD}, but the recipe has no section reward")
    rated = recipe.reward_weights if method.needs == "scores" else {}
    chosen = {} if recipe.pairs.source else recipe.pairs.weights
    for place, names in (("pairs.choose", chosen), ("scores.by", recipe.scores.by or ()), ("training.method", rated)):
        for name in names:
            if name in own:
                raise ValueError(
                    f"{place} names '{name}', the run's own reward model, which is trained on its pairs: it can't "
                    f"score the candidates before it exists"
                )


def _check_sets(recipe: "Recipe") -> None:
    """Check that each evaluation set has captions and a judge."""
    for name, settings in recipe.evaluation.sets.items():
        if settings.of is not None or settings.pairwise is not None:
            _check_pairwise(recipe, name, settings)
        elif (settings.source is None) != (name == HELD_OUT):
            has_source = "has the captions of captions.held_out: leave out its source"
            fault = has_source if settings.source else "has no source: name a file or folder of prompts"
            raise ValueError(f"evaluation.sets.{name} {fault}")
        evaluates = recipe.training.method.type != "none" and settings.pairwise is None
        if evaluates and settings.by is None and recipe.scorers and not recipe.set_scorers(name):
            raise ValueError(
                f"evaluation.sets.{name} has no judge: scorers has annotators alone, which judge no image by "
                f"itself: add another scorer"
            )


def _check_pairwise(recipe: "Recipe", name: str, settings: "EvaluationSet") -> None:
    place, sets = f"evaluation.sets.{name}", recipe.evaluation.sets
    if settings.of is None or settings.pairwise is None:
        raise ValueError(f"{place} needs both: of, a set with captions, and pairwise, the judge of its images")
    if settings.of not in sets or sets[settings.of].of is not None:
        known = ", ".join(other for other, other_settings in sets.items() if other_settings.of is None)
        raise ValueError(f"{place}.of names no set with captions of its own: there are {known or 'none'}")
    if settings.model_dump(exclude={"of", "pairwise"}, exclude_defaults=True):
        raise ValueError(f"{place} has the captions and images of {settings.of}: leave out all but of and pairwise")
    if name == recipe.evaluation.first_set:
        raise ValueError(f"{place} comes first, but the first set is the verdict's: put {settings.of} before it")


def _check_watch(recipe: "Recipe", watch: "Watch") -> None:
    method = recipe.training.method
    if method.trains != "model" or method.type == "none":
        raise ValueError(f"training.watch has nothing to watch: the method {method.type} trains no model")
    if not recipe.captions.held_out:
        raise ValueError("training.watch measures on held-out captions: set captions.held_out")
    if recipe.model.loras:
        raise ValueError("training.watch draws with the trained network alone: leave out model.loras")
    _check_is_not_trained_on(recipe, "training.watch.by", watch.by)


def _list_named_scorers(recipe: "Recipe") -> Iterator[tuple[str, Iterable[str], bool]]:
    """Yield (place, names of scores, True if annotators' scores are allowed) for each place that names scores."""
    method = recipe.training.method
    if recipe.pairs.source is None:
        yield f"pairs.choose.{recipe.pairs.choose.named_by}", recipe.pairs.weights, True
    yield "training.method", method.scorers, method.needs == "scores"
    if method.needs == "captions" and hasattr(method, "reward"):
        yield "training.method.reward", [name for name in recipe.reward_weights if name in recipe.score_sources], False
    yield "training.watch.by", () if recipe.training.watch is None else (recipe.training.watch.by,), False
    yield "scores.by", recipe.scores.by or (), True
    yield "reward.by", () if recipe.reward is None else (recipe.reward.by or ()), False
    for name, settings in recipe.evaluation.sets.items():
        yield f"evaluation.sets.{name}.by", settings.by or (), False

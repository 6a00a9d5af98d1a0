"""The models that a recipe names."""

from collections.abc import Iterator
from dataclasses import dataclass

from agfsync.recipe.base import Section
from agfsync.recipe.models import ModelSettings
from agfsync.recipe.recipe import Recipe
from agfsync.recipe.scorers import ServedScorerSettings


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a recipe names: `place` is the path of its section, such as "model.vae"; `path` is the model's."""

    place: str
    kind: str
    """the kind in the catalog, such as models or scorers"""
    role: str
    """model, config, vae, unet, transformer, refiner, lora; scorer, head, weights"""
    type: str
    path: str
    section: Section
    """the section that names it"""
    revision: str | None = None
    has_revision: bool = True
    """True if its section has a key for a revision"""


def drawing_models(recipe: Recipe) -> dict[str, ModelSettings]:
    """Return the models that draw candidates by their places in the recipe, the aligned one first."""
    beside = recipe.candidates.beside.items()
    return {"model": recipe.model} | {f"candidates.beside.{name}": model for name, model in beside}


def list_named_models(recipe: Recipe) -> Iterator[NamedModel]:
    """Yield every model, part, LoRA, refiner, scorer, head and replacement that `recipe` names, in order.

    Models behind a server are excluded.
    """
    other = {} if recipe.given is None else {"training.method.model": recipe.given.model}
    for place, model in {**drawing_models(recipe), **other}.items():
        type_ = model.type
        yield NamedModel(place, "models", "model", type_, model.path, model, model.revision)
        if path := model.configuration:
            yield NamedModel(f"{place}.config", "models", "config", type_, path, model, has_revision=False)
        for name, part in model.parts.items():
            yield NamedModel(f"{place}.{name}", "models", name, type_, part.path, part, part.revision)
        if refiner := model.refining:
            yield NamedModel(f"{place}.refiner", "models", "refiner", type_, refiner.path, refiner, refiner.revision)
        for number, lora in enumerate(model.loras):
            yield NamedModel(f"{place}.loras.{number}", "models", "lora", type_, lora.path, lora, has_revision=False)
    for name, scorer in recipe.scorers.items():
        if isinstance(scorer, ServedScorerSettings) or scorer.is_own:
            continue
        place = f"scorers.{name}"
        if scorer.path:
            yield NamedModel(place, "scorers", "scorer", scorer.type, scorer.path, scorer, scorer.revision)
        for key in scorer.PARTS:
            if path := getattr(scorer, key, None):
                yield NamedModel(f"{place}.{key}", "scorers", key, scorer.type, path, scorer, has_revision=False)
    network = getattr(recipe.reward.method, "network", None) if recipe.reward is not None else None
    if network is not None:
        place = "reward.method.network"
        yield NamedModel(place, "networks", "network", network.type, network.path, network, network.revision)
        if network.weights:
            at = f"{place}.weights"
            yield NamedModel(at, "networks", "weights", network.type, network.weights, network, has_revision=False)
    for name, settings in recipe.evaluation.sets.items():
        if (judge := settings.pairwise) is not None and judge.asked_server is None:
            place = f"evaluation.sets.{name}.pairwise"
            yield NamedModel(place, "pairwise", "judge", judge.type, judge.path, judge, judge.revision)

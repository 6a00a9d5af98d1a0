"""Every model that a recipe names."""

from collections.abc import Iterator
from dataclasses import dataclass

from agfsync.recipe.sections import Recipe
from agfsync.recipe.types import VqaOpenAISettings


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a recipe names: `place` is its section's, such as "model.vae"; `path` is as the recipe has it."""

    place: str
    kind: str
    """the catalog's: models or scorers"""
    type: str
    path: str
    revision: str | None = None
    has_revision: bool = True
    """True if its section has a key for a revision"""


def named_models(recipe: Recipe) -> Iterator[NamedModel]:
    """Yield every model, part, LoRA, refiner, scorer, head and replacement that `recipe` names, in its order.

    Models behind a server aren't among them.
    """
    drawing = {"model": recipe.model} | {f"candidates.beside.{name}": m for name, m in recipe.candidates.beside.items()}
    for place, model in drawing.items():
        yield NamedModel(place, "models", model.type, model.path, model.revision)
        if model.configuration:
            yield NamedModel(f"{place}.config", "models", model.type, model.configuration, has_revision=False)
        for name, part in model.parts.items():
            yield NamedModel(f"{place}.{name}", "models", model.type, part.path, part.revision)
        if model.refining:
            yield NamedModel(f"{place}.refiner", "models", model.type, model.refining.path, model.refining.revision)
        for number, lora in enumerate(model.loras):
            yield NamedModel(f"{place}.loras.{number}", "models", model.type, lora.path, has_revision=False)
    for name, scorer in recipe.scorers.items():
        if isinstance(scorer, VqaOpenAISettings):
            continue
        place = f"scorers.{name}"
        if scorer.path:
            yield NamedModel(place, "scorers", scorer.type, scorer.path, scorer.revision)
        for key in ("head", "weights"):
            if path := getattr(scorer, key, None):
                yield NamedModel(f"{place}.{key}", "scorers", scorer.type, path, has_revision=False)

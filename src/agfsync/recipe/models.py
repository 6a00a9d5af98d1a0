"""Every model that a recipe names, with its place in the recipe: for the doctor, the checks and the pinning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agfsync.recipe.sections import (
    GeneratorSettings,
    PartSettings,
    Recipe,
    RefinerSettings,
    SamplingLora,
    ScorerSettings,
)

ModelRole = Literal["generator", "config", "vae", "unet", "transformer", "refiner", "lora", "scorer", "head", "weights"]
EXCHANGEABLE: tuple[Literal["vae", "unet", "transformer"], ...] = ("vae", "unet", "transformer")
"""parts of a generator that another model may give"""
SERVED = ("vqa-openai",)
"""types of scorers whose model is a server's, under a name that may look like a hub id"""
NO_MODEL = "none"
"""what a recipe calls the model of a scorer that has none"""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a recipe names.

    `place` is the key that names it, such as "candidates.generator.unet"; `type` is that of the generator or scorer
    that it belongs to, which may be another package's.
    """

    place: str
    model: str
    revision: str | None
    role: ModelRole
    type: str
    section: GeneratorSettings | PartSettings | RefinerSettings | SamplingLora | ScorerSettings

    @property
    def is_served(self) -> bool:
        """True if a server has it, so that no weights are loaded here."""
        return self.role == "scorer" and self.type in SERVED


def name_generators(recipe: Recipe) -> list[tuple[str, GeneratorSettings]]:
    """Return every generator with its place in the recipe, the one that is aligned first."""
    beside = recipe.candidates.beside.items()
    return [("candidates.generator", recipe.candidates.generator)] + [
        (f"candidates.beside.{name}", settings) for name, settings in beside
    ]


def named_models(recipe: Recipe) -> Iterator[NamedModel]:
    """Yield every model that draws or judges: generators with what they are made of, scorers, judges.

    Language models that write captions and questions are not among them: they are always a server's.
    """
    for place, settings in name_generators(recipe):
        yield from _name_parts(place, settings)
    yield from _name_scorers("scores.scorers", recipe.scores.scorers)
    yield from _name_scorers("evaluation.judges", recipe.evaluation.judges)


def _name_parts(place: str, settings: GeneratorSettings) -> Iterator[NamedModel]:
    yield NamedModel(place, settings.model, settings.revision, "generator", settings.type, settings)
    if settings.config is not None:
        yield NamedModel(f"{place}.config", settings.config, None, "config", settings.type, settings)
    for role in EXCHANGEABLE:
        part: PartSettings | None = getattr(settings, role)
        if part is not None:
            yield NamedModel(f"{place}.{role}", part.model, part.revision, role, settings.type, part)
    for lora in settings.loras:
        yield NamedModel(f"{place}.loras", lora.path, None, "lora", settings.type, lora)
    if (refiner := settings.refiner) is not None:
        yield NamedModel(f"{place}.refiner", refiner.model, refiner.revision, "refiner", settings.type, refiner)


def _name_scorers(place: str, scorers: Mapping[str, ScorerSettings]) -> Iterator[NamedModel]:
    for name, settings in scorers.items():
        if settings.model != NO_MODEL:
            yield NamedModel(f"{place}.{name}", settings.model, settings.revision, "scorer", settings.type, settings)
        if settings.head is not None:
            yield NamedModel(f"{place}.{name}.head", settings.head, None, "head", settings.type, settings)
        if settings.weights is not None:
            yield NamedModel(f"{place}.{name}.weights", settings.weights, None, "weights", settings.type, settings)

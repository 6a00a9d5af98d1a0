"""The words of the verdict and the page that depend on what was compared: a model before and after, or two models."""

from dataclasses import dataclass

from agfsync.recipe import ModelSettings, Recipe
from agfsync.stages.selection import public_name


@dataclass(frozen=True, slots=True)
class Wording:
    """The names of the two models and the words about them; the defaults suit a run that trains."""

    base: str = "base"
    aligned: str = "aligned"
    both: str = "base and aligned model"
    scores_higher: str = "the aligned model scores higher"
    captions: str = "held-out captions"
    before: str = "before"
    after: str = "after"
    images: str = "Before and after"
    parts: str = "Where it changed"
    gains: str = "Best gains"
    losses: str = "Worst losses"
    better: str = "Better"
    worse: str = "Worse"
    unclear: str = "No clear change"
    higher: str = "rose by"
    lower: str = "fell by"
    moved: str = "moved by"
    compares: bool = False
    """True if the run compares two models, and trains none"""
    shows_roles: bool = True
    """True if training data were selected by judges, or may have been"""


ORDINARY = Wording()


def find_wording(recipe: Recipe) -> Wording:
    """Return the words for a run of `recipe`."""
    if recipe.given is None:
        return ORDINARY
    base, other = recipe.given.names
    return Wording(
        base=base,
        aligned=other,
        both=f"{base} and {other}",
        scores_higher=f"{other} scores higher",
        captions="captions",
        before=base,
        after=other,
        images="Side by side",
        parts="Where they differ",
        gains=f"Where {other} gains most",
        losses=f"Where {other} loses most",
        better=f"{other} is better",
        worse=f"{other} is worse",
        unclear="No clear difference",
        higher="is higher by",
        lower="is lower by",
        moved="differs by",
        compares=True,
        shows_roles=recipe.given.selected_on != (),
    )


def list_models(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the name and the description of each evaluated model: its path, its LoRAs and its sampling."""
    if recipe.given is None:
        return [("model", _describe_model(recipe.model))]
    named = zip(recipe.given.names, recipe.evaluated_models.values(), strict=True)
    return [(name, _describe_model(settings)) for name, settings in named]


def _describe_model(settings: ModelSettings) -> str:
    loras = "".join(f" + {public_name(lora.path)}" for lora in settings.loras)
    sampling = settings.sampling
    return f"{settings.path}{loras}, {sampling.steps} steps, guidance {sampling.guidance}"

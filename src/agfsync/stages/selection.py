"""The scorers that chose what a model was trained on: a run's or a pair set's pairs, or rated images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agfsync import catalog
from agfsync.formats import Selector
from agfsync.recipe import Recipe, ScorerSettings
from agfsync.records import digest
from agfsync.store import Run

SELECTED_BY = "selected_by"
"""The candidates' note of the selectors that a pair set names; None where it names none."""


def find_selectors(run: Run, recipe: Recipe) -> list[Selector] | None:
    """Return the scorers that chose the run's pairs; None where a pair set has brought them and doesn't say.

    A pair set counts as it was when the candidates were taken from it. A training-free method has no pairs.
    """
    if recipe.steering is not None:
        return []
    if recipe.pairs.source is None:
        return list_choosing_scorers(recipe)
    taken = run.find_finished("candidates")
    noted: Sequence[Mapping[str, Any]] | None = taken.notes.get(SELECTED_BY) if taken else None
    return None if noted is None else [Selector(**each) for each in noted]


def find_training_selectors(run: Run, recipe: Recipe) -> list[Selector] | None:
    """Return the scorers that the aligned model was trained to please: as `find_selectors`, or a method's rewards.

    A method without rewards, such as one that trains nothing or on random images, pleases none. The run's own reward
    model stands with the scorers that chose its pairs: what pleases it pleases them.
    """
    method, own = recipe.training.method, {name: 1.0 for name, each in recipe.scorers.items() if each.is_own}
    if method.needs == "pairs":
        chosen = find_selectors(run, recipe)
        return None if chosen is None else [*chosen, *_describe_scorers(recipe, own)]
    if recipe.given is not None:
        known = recipe.given.selected_on
        return None if known is None else _describe_scorers(recipe, dict.fromkeys(known, 1.0))
    rewards = dict.fromkeys(method.scorers, 1.0) | (recipe.reward_weights if hasattr(method, "reward") else {})
    if not own.keys() & rewards.keys():
        return _describe_scorers(recipe, rewards)
    chosen = find_selectors(run, recipe)
    return None if chosen is None else [*chosen, *_describe_scorers(recipe, own | rewards)]


def list_choosing_scorers(recipe: Recipe) -> list[Selector]:
    """Return the scorers that the recipe's choice reads, without those of weight 0; each of weight 1 if it has none."""
    return _describe_scorers(recipe, recipe.pairs.weights)


def _describe_scorers(recipe: Recipe, weights: Mapping[str, float]) -> list[Selector]:
    scorers = {name: recipe.find_scorer(name) for name, weight in weights.items() if weight}
    return [Selector(name, weights[name], digest_judge(each), get_model_name(each)) for name, each in scorers.items()]


def note_selectors(selectors: Sequence[Selector] | None) -> list[dict[str, Any]] | None:
    """Return `selectors` as a stage's notes hold them."""
    return None if selectors is None else [asdict(each) for each in selectors]


def digest_judge(settings: ScorerSettings) -> str:
    """Return the digest of a scorer's type and models, whatever its name, dtype, device and server.

    A model in a folder counts by the folder's name, which a pair set from another machine names too.
    """
    names = [name and public_name(name) for name in settings.files]
    return digest("judge", settings.type, names, catalog.fingerprint(*settings.files))


def get_model_name(settings: ScorerSettings) -> str:
    """Return the model that a scorer reads images with, without folders; empty where it has none."""
    return public_name(settings.path) if settings.path else ""


def public_name(name: str) -> str:
    """Return a model's or file's name without the folders of this machine; hub ids and embedded models as they are."""
    if name.startswith(catalog.EMBEDDED):
        return name
    path = Path(name).expanduser()
    return path.name if path.exists() or path.is_absolute() or name.startswith(".") else name

"""The scorers that chose a model's training data: a run's or a pair set's pairs, or rated images."""

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
"""The candidates' note with the selectors that a pair set names; None if it names none."""


def find_selectors(run: Run, recipe: Recipe) -> list[Selector] | None:
    """Return the scorers that chose the run's pairs; None if they come from a pair set that doesn't name them.

    The selectors of a pair set are those it named when it was imported. A training-free method has no pairs.
    """
    if recipe.steering is not None:
        return []
    if recipe.pairs.source is None:
        return list_choosing_scorers(recipe)
    imported = run.find_finished("candidates")
    named: Sequence[Mapping[str, Any]] | None = imported.notes.get(SELECTED_BY) if imported else None
    return None if named is None else [Selector(**each) for each in named]


def find_training_selectors(run: Run, recipe: Recipe) -> list[Selector] | None:
    """Return the scorers that the aligned model was optimised for: those of `find_selectors`, or a method's rewards.

    A method without rewards, such as one that trains nothing or on random images, has none. The run's own reward model
    brings along the scorers that chose its pairs, since it imitates them.
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
    """Return the scorers that the recipe's choice reads, without those of weight 0; the default weight is 1."""
    return _describe_scorers(recipe, recipe.pairs.weights)


def _describe_scorers(recipe: Recipe, weights: Mapping[str, float]) -> list[Selector]:
    scorers = {name: recipe.find_scorer(name) for name, weight in weights.items() if weight}
    return [Selector(name, weights[name], digest_judge(each), get_model_name(each)) for name, each in scorers.items()]


def note_selectors(selectors: Sequence[Selector] | None) -> list[dict[str, Any]] | None:
    """Return `selectors` in JSON types, for a stage's notes."""
    return None if selectors is None else [asdict(each) for each in selectors]


def digest_judge(settings: ScorerSettings) -> str:
    """Return the digest of a scorer's type and models, without its name, dtype, device and server.

    A model in a folder is identified by the folder's name, so that a pair set from another machine has the same digest.
    """
    names = [name and public_name(name) for name in settings.files]
    return digest("judge", settings.type, names, catalog.fingerprint(*settings.files))


def get_model_name(settings: ScorerSettings) -> str:
    """Return the name of a scorer's model without folders; empty if it has no model."""
    return public_name(settings.path) if settings.path else ""


def public_name(name: str) -> str:
    """Return a model's or file's name without this machine's folders; hub ids and embedded models stay unchanged."""
    if name.startswith(catalog.EMBEDDED):
        return name
    path = Path(name).expanduser()
    return path.name if path.exists() or path.is_absolute() or name.startswith(".") else name

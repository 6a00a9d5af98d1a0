"""The base of a study: a run with the results that all arms share."""

from collections.abc import Iterable, Sequence
from typing import Any

from agfsync.recipe import Recipe
from agfsync.stages import STAGES, list_needed_stages
from agfsync.study.settings import Arm

SHARABLE = ("captions", "questions", "candidates", "scores", "pairs", "reward")
"""The stages that a base may run."""
ALWAYS = ("captions", "questions")
"""The stages that a base always runs, since the base model's evaluation needs them."""


def make_base_recipe(base: Recipe, arms: Iterable[Arm]) -> Recipe:
    """Return the recipe of a base run: it trains no generator, and scores the candidates by the scorers of all arms.

    A fork reuses a score by its scorer and image, whichever other scorers the fork has.
    """
    used = {
        name
        for arm in arms
        for name, settings in arm.recipe.candidate_scorers.items()
        if not arm.trains_nothing and base.scorers.get(name) == settings
    }
    used_scorers = [name for name in base.scorers if name in used]
    removed: dict[str, Any] = {"training.watch": None, "training.method": {"type": "none"}, "evaluation.controls": []}
    removed["rounds"] = None
    return base.with_({**removed, **({"scores.by": used_scorers} if used_scorers else {})})


def find_shared_stages(base: Recipe, arms: Sequence[Arm]) -> list[str]:
    """Return the stages that the base run shares with all arms that need them, in order.

    The list ends before the first stage whose settings differ in one of these arms. Scores are shared if the base
    has each arm's scorers, but pairs only if all arms have the same scores.
    """
    shared, settings = list[str](), {stage.name: stage.settings for stage in STAGES}
    for stage in (stage for stage in STAGES if stage.name in SHARABLE):
        needing = [arm.recipe for arm in arms if stage.name in list_arm_stages(arm)]
        if stage.name == "scores":
            is_shared = all(_has_scorers(base, recipe) for recipe in needing)
        else:
            named = ("scores", "pairs") if stage.name == "pairs" else (stage.name,)
            is_shared = all(settings[name](recipe) == settings[name](base) for recipe in needing for name in named)
        if not is_shared:
            break
        shared += [stage.name] if needing else []
    return shared


def list_arm_stages(arm: Arm) -> list[str]:
    """Return the stages that an arm needs; one that trains nothing only needs captions to draw."""
    return list(ALWAYS) if arm.trains_nothing else [stage.name for stage in list_needed_stages(arm.recipe)]


def _has_scorers(base: Recipe, recipe: Recipe) -> bool:
    scorers = base.candidate_scorers
    return all(scorers.get(name) == settings for name, settings in recipe.candidate_scorers.items())

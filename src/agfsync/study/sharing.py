"""The base of a study: a run of what all arms share, made once."""

from collections.abc import Iterable, Sequence
from typing import Any

from agfsync.recipe import Recipe
from agfsync.stages import STAGES, list_needed_stages
from agfsync.study.settings import Arm

SHARABLE = ("captions", "questions", "candidates", "scores", "pairs", "reward")
"""The stages of a base."""
ALWAYS = ("captions", "questions")
"""The base model's evaluation needs these, whatever the arms share."""


def make_base_recipe(base: Recipe, arms: Iterable[Arm]) -> Recipe:
    """Return the recipe of a base run: it trains nothing, and scores the candidates by the scorers of all arms.

    A score is found again in a fork by its scorer and image, whichever other scorers the fork has.
    """
    used = {
        name
        for arm in arms
        for name, settings in arm.recipe.candidate_scorers.items()
        if not arm.trains_nothing and base.scorers.get(name) == settings
    }
    by = [name for name in base.scorers if name in used]
    without: dict[str, Any] = {"training.watch": None, "training.method": {"type": "none"}, "evaluation.controls": []}
    without["rounds"] = None
    return base.with_({**without, **({"scores.by": by} if by else {})})


def find_shared_stages(base: Recipe, arms: Sequence[Arm]) -> list[str]:
    """Return the stages that all arms which need them share with the base run, in order.

    The last of them is the last stage whose settings are equal in all of those arms. Scores are shared if the base
    has each arm's scorers, but pairs only if all arms have the same scores.
    """
    shared, settings = list[str](), {stage.name: stage.settings for stage in STAGES}
    for stage in (each for each in STAGES if each.name in SHARABLE):
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
    there = base.candidate_scorers
    return all(there.get(name) == settings for name, settings in recipe.candidate_scorers.items())

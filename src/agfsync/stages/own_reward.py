"""The reward model of a run as one of its scorers: where it lies, and which weights its scores are of."""

from agfsync.recipe import Recipe
from agfsync.recipe.types import OWN_REWARD
from agfsync.store import Run

REWARD = "reward"
"""The stage that trains it, and its folder in the run's."""


def bind_scorers(recipe: Recipe, run: Run) -> Recipe:
    """Return `recipe` with the place of the run's own reward model in the scorers that have the path run:reward.

    Their revision becomes the mark of the stage that trained it, by which `digest_scorer` knows their scores: other
    weights give other scores, also in a fork or in a folder that was moved. Before the stage has ended nothing changes.
    """
    trained = run.find_finished(REWARD)
    own = {name: each for name, each in recipe.scorers.items() if each.is_own}
    if not own or trained is None:
        return recipe
    place = {"path": str(run.path.resolve() / REWARD), "revision": f"{OWN_REWARD}@{trained.mark}"}
    bound = {name: each.model_copy(update=place) for name, each in own.items()}
    return recipe.model_copy(update={"scorers": {**recipe.scorers, **bound}})

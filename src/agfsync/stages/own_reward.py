"""A run's own reward model: the split of its training data, and its use as a scorer of the run."""

from agfsync.recipe import Recipe
from agfsync.recipe.reward import Reward
from agfsync.recipe.scorers import OWN_REWARD
from agfsync.records import derive_seed
from agfsync.stages.scored import is_in_share
from agfsync.store import Run

REWARD = "reward"
"""The stage that trains it, and its folder in the run folder."""


def bind_scorers(recipe: Recipe, run: Run) -> Recipe:
    """Return `recipe` with the path of the run's own reward model in the scorers whose path is run:reward.

    Their revision becomes the mark of the stage that trained it, so that `digest_scorer` depends on the weights, but
    not on the folder, which may be a fork or moved. Before the stage has ended, `recipe` is returned unchanged.
    """
    trained = run.find_finished(REWARD)
    own = {name: each for name, each in recipe.scorers.items() if each.is_own}
    if not own or trained is None:
        return recipe
    place = {"path": str(run.path.resolve() / REWARD), "revision": f"{OWN_REWARD}@{trained.mark}"}
    bound = {name: each.model_copy(update=place) for name, each in own.items()}
    return recipe.model_copy(update={"scorers": {**recipe.scorers, **bound}})


def choose_split(caption_key: str, settings: Reward) -> str:
    """Return the split of a prompt by its key: test, validation, train, or "" if the training doesn't use it."""
    fraction = derive_seed("reward split", caption_key) / 2**63
    if fraction < settings.test:
        return "test"
    if fraction < settings.test + settings.validation:
        return "validation"
    return "train" if is_in_share(f"reward {caption_key}", settings.share) else ""

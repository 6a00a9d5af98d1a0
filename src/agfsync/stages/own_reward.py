"""The reward model of a run: what it is trained on, and how it is one of the run's scorers."""

from agfsync.recipe import Recipe
from agfsync.recipe.reward import Reward
from agfsync.recipe.scorers import OWN_REWARD
from agfsync.records import derive_seed
from agfsync.stages.scored import is_in_share
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


def choose_split(caption_key: str, settings: Reward) -> str:
    """Return the split of a prompt by its key: test, validation, train, or "" beyond the share that is trained on."""
    place = derive_seed("reward split", caption_key) / 2**63
    if place < settings.test:
        return "test"
    if place < settings.test + settings.validation:
        return "validation"
    return "train" if is_in_share(f"reward {caption_key}", settings.share) else ""

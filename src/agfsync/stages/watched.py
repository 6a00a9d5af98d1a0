"""The watched judge of a training: it scores images of held-out captions, drawn with the current network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agfsync.engine.batch_fitting import BatchFit, load_batch_fit
from agfsync.engine.progress import Progress
from agfsync.errors import RecipeError, RunError
from agfsync.recipe import Recipe, ScorerSettings
from agfsync.records import derive_seed
from agfsync.stages.context import CaptionToDraw, Context, digest_generator, read_captions_to_draw
from agfsync.stages.selection import digest_judge, find_selectors
from agfsync.stages.spending import Account
from agfsync.stages.training_data import make_rewards
from agfsync.training.best_weights import BestWeights
from agfsync.training.objective import Actor
from agfsync.training.precision import leave_no_trace
from agfsync.training.rewards import Rewards
from agfsync.training.watching import Watcher

_STAGE = "training"
_SEED = "evaluation"
"""the label from which the evaluation derives its images' seeds"""


@dataclass(slots=True)
class JudgeMeasurement:
    """Draws `captions` with the current network, from the evaluation's seeds, and scores them by one judge."""

    actor: Actor
    seed: int
    captions: Sequence[CaptionToDraw]
    judge: Rewards
    fit: BatchFit
    progress: Progress
    account: Account | None = None
    has_scored: bool = False

    def __call__(self) -> Tensor:
        """Return each caption's score, float64 (N,), NaN if the judge gives none.

        Raises:
            RunError: no caption has a score in the first measurement.
        """
        with leave_no_trace(self.actor.network, self.actor.precision, self.actor.device):
            values_N = torch.tensor(self.fit.over(self.captions, self._score_batch), dtype=torch.float64)
        if self.account is not None:
            self.account.note()
        failures = "; ".join(f"{why} ({count})" for why, count in self.judge.failures.items())
        self.judge.failures.clear()
        if not (self.has_scored or values_N.isfinite().any()):
            raise RunError(f"training.watch: no held-out caption has a score: {failures}")
        if failures:
            self.progress.say(f"{_STAGE}: watch: {failures}")
        self.has_scored = True
        return values_N

    def _score_batch(self, captions: Sequence[CaptionToDraw]) -> list[float]:
        texts, questions = [each.caption.text for each in captions], [each.questions for each in captions]
        model: Any = self.actor.model
        images = model.draw(texts, [derive_seed(self.seed, _SEED, each.key) for each in captions], 0.0)
        values: list[float] = self.judge.score(images, texts, questions).total_B.tolist()
        return values


def list_watched(recipe: Recipe) -> dict[str, ScorerSettings]:
    """Return the watched scorer by its name; empty if none is watched."""
    watch = recipe.training.watch
    return {} if watch is None else {watch.by: recipe.scorers[watch.by]}


def check_watch(context: Context) -> None:
    """Check that the watched judge isn't among the scorers that a pair set names as its selectors.

    Raises:
        RecipeError: it is.
    """
    recipe = context.recipe
    chosen_by = (find_selectors(context.run, recipe) or ()) if recipe.pairs.source else ()
    for name, settings in list_watched(recipe).items():
        if digest_judge(settings) in {each.identity for each in chosen_by}:
            raise RecipeError(
                f"training.watch.by names '{name}', which chose the pairs of {recipe.pairs.source}: name a scorer that "
                f"nothing trains on"
            )


def make_watcher(context: Context, actor: Actor, accounts: Mapping[str, Account]) -> Watcher | None:
    """Return the watcher of a training; None if the recipe has none.

    Raises:
        RunError: no held-out caption has questions.
    """
    recipe, watch = context.recipe, context.recipe.training.watch
    if watch is None:
        return None
    captions = sorted(read_captions_to_draw(context, "held-out"), key=lambda each: each.key)[: watch.captions]
    if not captions:
        raise RunError("training.watch needs held-out captions with questions: there are none")
    title, source = f"{_STAGE}: watch", digest_generator(recipe.model)
    fit = load_batch_fit(context.run.path, title, source, recipe.evaluation.batch, context.progress)
    judge = make_rewards(context, {watch.by: 1.0}, accounts)
    measure = JudgeMeasurement(actor, recipe.seed, captions, judge, fit, context.progress, accounts.get(watch.by))
    best = BestWeights(context.run.path / _STAGE / "watch", context.digest) if watch.stop else None
    return Watcher(watch.by, watch.metric, watch.every, measure, best)

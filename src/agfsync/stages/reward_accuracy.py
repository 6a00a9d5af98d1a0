"""The accuracy of a run's reward model on its test pairs, with that of the recipe's scorers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfsync.engine.batch_fitting import release_memory
from agfsync.scorers.reward_networks import RewardModel
from agfsync.stages.context import Context, read_captions_to_draw
from agfsync.stages.judging import ImageToJudge, Tables, judge_images
from agfsync.stages.own_reward import REWARD
from agfsync.stages.reward_data import SplitPairs, require_reward
from agfsync.statistics.accuracy import LabelledPair, tabulate_accuracy
from agfsync.store.streams import Stream

_STAGE = REWARD
REWARD_SCORES = "reward_scores"
MODEL_NAME = "reward model"
"""the name of the trained model in the table of accuracies"""


def measure_accuracy(context: Context, model: RewardModel, split: SplitPairs) -> dict[str, Any]:
    """Return the accuracy of the model and of the recipe's scorers on the test pairs, by aspect."""
    recipe, test = context.recipe, split.data.select(split.test)
    batch = 2 * require_reward(recipe).batch
    own = test.subtract_outputs(model, require_reward(recipe).precision, batch).double().numpy()
    release_memory()
    records = [split.records[int(n)] for n in split.test]
    pairs = [LabelledPair(p.caption_key, p.winner_key, p.loser_key, 1, p.aspect) for p in records]
    values = _judge_test_images(context, {key for pair in pairs for key in (pair.first, pair.second)})
    differences = {MODEL_NAME: own} | {name: subtract_values(pairs, of) for name, of in values.items()}
    return tabulate_accuracy(pairs, differences, MODEL_NAME, recipe.evaluation.resamples, recipe.seed)


def subtract_values(pairs: Sequence[LabelledPair], values: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the first image's value minus the second's for each pair; NaN if one has no value."""
    nan = float("nan")
    return np.array([values.get(pair.first, nan) - values.get(pair.second, nan) for pair in pairs], np.float64)


def _judge_test_images(context: Context, keys: set[str]) -> dict[str, dict[str, float]]:
    """Return each scorer's values by image; scorers that have scored the candidates don't score them again.

    Annotators, which can't score single images, have values only if they have scored the candidates.
    """
    recipe, run_ = context.recipe, context.run
    have_scored = () if recipe.pairs.source else recipe.candidate_scores
    of_annotators = [name for name in have_scored if recipe.find_scorer(name).aspect_names]
    to_score = {name: each for name, each in recipe.reward_judges.items() if name not in have_scored}
    judge_images(context, Tables(_STAGE, "candidates", REWARD_SCORES), to_score, _list_images(context, keys))
    values: dict[str, dict[str, float]] = {name: {} for name in [*of_annotators, *recipe.reward_judges]}
    for table in ("scores", REWARD_SCORES):
        for row in run_.rows(table, ["candidate_key", "scorer", "value"]):
            if row["scorer"] in values and row["candidate_key"] in keys and row["value"] is not None:
                values[row["scorer"]][row["candidate_key"]] = row["value"]
    return values


def _list_images(context: Context, keys: set[str]) -> Stream[ImageToJudge]:
    captions = {each.key: each for each in read_captions_to_draw(context, "train")}

    def read() -> Iterator[ImageToJudge]:
        for unit, rows in context.run.rows_by_unit("candidates", ["key", "caption_key"]):
            for row in rows:
                if row["key"] in keys and (caption := captions.get(row["caption_key"])):
                    yield ImageToJudge(row["key"], unit, caption.caption.text, caption.questions)

    return Stream(len(keys), read)

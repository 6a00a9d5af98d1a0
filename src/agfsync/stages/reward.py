"""The stage after the pairs: a reward model is trained on them, and measured on pairs that it has not seen.

Prompts are parted by their keys into those that are trained on, those whose loss chooses the weights, and those that
the accuracy is measured on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agfsync import catalog
from agfsync.accuracy import LabelledPair, tabulate_accuracy
from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import RunError
from agfsync.files.atomic import replace_folder
from agfsync.files.images import decode_image
from agfsync.recipe import Recipe
from agfsync.recipe.reward import Reward
from agfsync.records import Caption, Pair, derive_seed, digest
from agfsync.scorers.reward_networks import RewardModel
from agfsync.stages.context import EARLIER, Context, read_captions_to_draw
from agfsync.stages.judging import ImageToJudge, Tables, judge_images
from agfsync.stages.own_reward import REWARD, choose_split
from agfsync.stages.shaping import shape_reward_training
from agfsync.store.streams import Stream, iterate_batches
from agfsync.training.best_weights import BestWeights
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.methods.bradley_terry import BradleyTerry, ValidationWatcher, measure_losses
from agfsync.training.metrics import read_metrics
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.precision import leave_no_trace, make_loss_scaler
from agfsync.training.publish.card import RewardFacts, render_reward_card
from agfsync.training.reward_pairs import RewardPairs, map_pixels

_STAGE = REWARD
_WORK = "reward_training"
"""The folder of checkpoints, pixels and metrics; the folder `reward` is the model."""
REWARD_SCORES = "reward_scores"
MODEL_NAME = "reward model"
"""The name of the trained model in the table of accuracies."""
ACCURACY = "accuracy"
"""The note with the table of accuracies: aspect -> judge -> figures."""
_RESIZED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """The run's pairs with their images, and the rows of the pairs, int64, of each split."""

    records: Sequence[Pair]
    data: RewardPairs
    keys: Sequence[str]
    """of the images, by row"""
    train: Tensor
    validation: Tensor
    test: Tensor


def run(context: Context) -> Mapping[str, Any]:
    """Train the reward model, put it at RUN/reward, and return the notes with its accuracy on the test pairs.

    Raises:
        RunError: a split has no pairs. ModelError: the network can't be loaded.
        DivergedError: a loss or gradient isn't finite.
    """
    recipe, settings = context.recipe, require_reward(context.recipe)
    context.progress.say(f"{_STAGE}: loading {settings.method.network.path}")  # type: ignore[attr-defined]
    model = load_network(recipe)
    make_loss_scaler(model.device, settings.precision)
    split = load_pairs(context, model)
    notes = _train(context, model, split)
    table = _measure_accuracy(context, model, split)
    card = _describe_model(recipe, split, table)
    replace_folder(context.run.path / REWARD, lambda beside: _save_model(model, card, beside))
    for pixels in (context.run.path / _WORK).glob("pixels-*"):
        pixels.unlink()
    return {**notes, ACCURACY: table}


def require_reward(recipe: Recipe) -> Reward:
    """Return the recipe's section `reward`, which the stage runs for."""
    assert recipe.reward is not None
    return recipe.reward


def load_network(recipe: Recipe) -> RewardModel:
    """Load the network that is trained, in fp32, with its first blocks frozen; a new head has the seed's weights."""
    settings: Any = require_reward(recipe).method
    network = settings.network.model_dump(exclude={"frozen", "dropout"})
    seed = derive_seed(recipe.reward_seed, "head")
    model: RewardModel = catalog.build("networks", network | {"seed": seed, "dtype": "fp32"})
    model.network.freeze(settings.network.frozen)
    return model


def load_pairs(context: Context, model: RewardModel) -> SplitPairs:
    """Return the run's pairs, their images resized for `model`.

    Raises:
        RunError: a split has no pairs.
    """
    settings, run_ = require_reward(context.recipe), context.run
    records = list(run_.read("pairs", Pair))
    wanted = {key for pair in records for key in (pair.winner_key, pair.loser_key)}
    images = {
        row["key"]: row["caption_key"]
        for row in run_.rows("candidates", ["key", "caption_key"])
        if row["key"] in wanted
    }
    rows, texts = {key: n for n, key in enumerate(images)}, {c.key: c.text for c in run_.read("captions", Caption)}
    prompts = {text: n for n, text in enumerate(dict.fromkeys(texts[caption] for caption in images.values()))}
    tokens, _ = model.tokenize(list(prompts))
    prepared = digest(find_pairs_mark(context), model.config.to_dict(), model.processor.to_json_string())
    place = run_.path / _WORK / f"pixels-{prepared}.npy"
    data = RewardPairs(
        map_pixels(place, len(images), _resize_candidates(context, model, images)),
        tokens,
        torch.tensor([prompts[texts[caption]] for caption in images.values()]),
        torch.tensor([rows[pair.winner_key] for pair in records]),
        torch.tensor([rows[pair.loser_key] for pair in records]),
    )
    splits = [choose_split(pair.caption_key, settings) for pair in records]
    parts = {name: [n for n, each in enumerate(splits) if each == name] for name in ("train", "validation", "test")}
    if settings.aspects is not None:
        for name in ("train", "validation"):
            parts[name] = [n for n in parts[name] if records[n].aspect in settings.aspects]
    for name, part in parts.items():
        if not part:
            raise RunError(f"{_STAGE}: no pair is left for {name}: make pairs of more captions, or see reward.{name}")
    return SplitPairs(records, data, list(images), *(torch.tensor(part) for part in parts.values()))


def find_pairs_mark(context: Context) -> str | None:
    """Return the mark of the pairs, None before they are finished."""
    finished = context.run.find_finished("pairs")
    return None if finished is None else finished.mark


def _resize_candidates(context: Context, model: RewardModel, images: Mapping[str, str]) -> Iterator[Tensor]:
    files = (row["image"]["bytes"] for row in context.run.rows("candidates", ["key", "image"]) if row["key"] in images)
    with context.progress.stage(f"{_STAGE}: resizing", len(images), "images") as task:
        for some in iterate_batches(files, _RESIZED_AT_ONCE):
            yield model.resize_images([decode_image(each) for each in some])
            task.advance(len(some))


def _train(context: Context, model: RewardModel, split: SplitPairs) -> dict[str, Any]:
    """Train, load the best weights and set the model's scale; return the notes."""
    settings, work = require_reward(context.recipe), context.run.path / _WORK
    name = digest(_STAGE, shape_reward_training(context.recipe), find_pairs_mark(context))
    method: BradleyTerry = catalog.build("methods", settings.method.model_dump())
    data, actor = split.data.select(split.train), Actor(model, None, settings.precision)
    epoch = max(1, len(data) // settings.batch)
    plan = make_plan(context.recipe, len(data))
    batch = 2 * max(1, settings.batch // settings.accumulate)
    held = split.data.select(split.validation)

    def validate() -> Tensor:
        with leave_no_trace(model.network, settings.precision, model.device):
            return measure_losses(model, held, settings.precision, batch)

    watcher = ValidationWatcher(
        "validation loss",
        "validation_loss",
        max(1, min(plan.steps, epoch // settings.validations)),
        validate,
        BestWeights(work / "best", name),
    )
    checkpoints, log = Checkpoints(work / "checkpoints", name), work / "metrics.jsonl"
    done = checkpoints.find_last_step()
    with context.progress.stage(_STAGE, plan.steps, "steps", done=done) as task:
        seen: dict[str, float] = {}

        def tell(line: Mapping[str, float]) -> None:
            seen.update({name: line[name] for name in ("loss", "validation_loss") if name in line})
            task.advance(1 if line["step"] else 0, **seen)

        objective = method.objective(data, plan)
        train(actor, objective, plan, checkpoints, log, tell, say=context.progress.say, watcher=watcher)
    outputs = data.rate(model, data.images, settings.precision, batch)
    model.scale = float(outputs.mean()), float(outputs.std(correction=0)) or 1.0
    lines = read_metrics(log)
    steps = [line for line in lines if line["step"]]
    validated = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    last = steps[-max(1, len(steps) // 10) :]
    return {
        EARLIER: sum(line["seconds"] + line.get("watch_seconds", 0.0) for line in steps if line["step"] <= done),
        "pairs": len(data),
        "validation_pairs": len(held),
        "test_pairs": len(split.test),
        "steps": plan.steps,
        "best_step": watcher.best_step,
        "validation_loss": validated.get(watcher.best_step),
        "trained_parameters": sum(p.numel() for p in model.network.parameters() if p.requires_grad),
        **{curve: fmean(line[curve] for line in last) for curve in method.curves},
    }


def make_plan(recipe: Recipe, pairs: int) -> TrainingPlan:
    """Return the plan of a training on so many pairs."""
    settings = require_reward(recipe)
    own = {"method", "seed", "steps", "epochs", "share", "aspects", "validation", "test", "validations", "by"}
    steps = settings.steps or max(1, ceil(settings.epochs * pairs / settings.batch))
    return TrainingPlan(steps=steps, seed=recipe.reward_seed, **settings.model_dump(exclude=own))


def _measure_accuracy(context: Context, model: RewardModel, split: SplitPairs) -> dict[str, Any]:
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
    """Return the first image's value less the second's of each pair, NaN where one has none."""
    nan = float("nan")
    return np.array([values.get(pair.first, nan) - values.get(pair.second, nan) for pair in pairs], np.float64)


def _judge_test_images(context: Context, keys: set[str]) -> dict[str, dict[str, float]]:
    """Return each scorer's values by image; those that have scored the candidates aren't asked again."""
    recipe, run_ = context.recipe, context.run
    have = () if recipe.pairs.source else recipe.candidate_scorers.keys()
    asked = {name: each for name, each in recipe.reward_judges.items() if name not in have}
    judge_images(context, Tables(_STAGE, "candidates", REWARD_SCORES), asked, _list_images(context, keys))
    values: dict[str, dict[str, float]] = {name: {} for name in recipe.reward_judges}
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
                if row["key"] in keys and (asked := captions.get(row["caption_key"])):
                    yield ImageToJudge(row["key"], unit, asked.caption.text, asked.questions)

    return Stream(len(keys), read)


def _describe_model(recipe: Recipe, split: SplitPairs, table: Mapping[str, Any]) -> RewardFacts:
    settings: Any = require_reward(recipe)
    place = settings.method.network.path
    public = "/" in place and not Path(place).expanduser().exists()
    shown = settings.model_dump(exclude={"method", "by", "checkpoint_every", "accumulate"}, exclude_none=True)
    network = settings.method.network.model_dump(exclude={"path", "device", "weights"}, exclude_none=True)
    prompts = len(split.data.select(split.train).prompt_P.unique())
    return RewardFacts(
        name=recipe.name,
        base=place if public else Path(place).name,
        base_is_public=public,
        trained_on=f"on {len(split.train):,} pairs of {prompts:,} prompts",
        choice=recipe.pairs.summary,
        settings={("network" if name == "type" else name): each for name, each in network.items()} | shown,
        accuracy=table,
    )


def _save_model(model: RewardModel, card: RewardFacts, folder: Path) -> None:
    model.save(folder)
    (folder / "README.md").write_text(render_reward_card(card), encoding="utf-8")

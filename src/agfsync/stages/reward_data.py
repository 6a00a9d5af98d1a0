"""The data of a reward model's training: the run's pairs with their images, split by their prompts' keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agfsync.errors import RunError
from agfsync.files.images import decode_image
from agfsync.recipe import Recipe
from agfsync.recipe.reward import Reward
from agfsync.records import Caption, Pair, digest
from agfsync.scorers.reward_networks import RewardModel
from agfsync.stages.context import Context
from agfsync.stages.own_reward import REWARD, choose_split
from agfsync.store.streams import iterate_batches
from agfsync.training.reward_pairs import RewardPairs, map_pixels

REWARD_WORK = "reward_training"
"""The folder of checkpoints, pixels and metrics; the model is in the folder `reward`."""
_STAGE = REWARD
_RESIZED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class SplitPairs:
    """The run's pairs with their images, and the row numbers (int64) of each split's pairs."""

    records: Sequence[Pair]
    data: RewardPairs
    keys: Sequence[str]
    """the images' keys, by row"""
    train: Tensor
    validation: Tensor
    test: Tensor


def require_reward(recipe: Recipe) -> Reward:
    """Return the recipe's section `reward`, which it must have."""
    assert recipe.reward is not None
    return recipe.reward


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
    cache = run_.path / REWARD_WORK / f"pixels-{prepared}.npy"
    data = RewardPairs(
        map_pixels(cache, len(images), _resize_candidates(context, model, images)),
        tokens,
        torch.tensor([prompts[texts[caption]] for caption in images.values()]),
        torch.tensor([rows[pair.winner_key] for pair in records]),
        torch.tensor([rows[pair.loser_key] for pair in records]),
    )
    splits = [choose_split(pair.caption_key, settings) for pair in records]
    parts = {name: [n for n, split in enumerate(splits) if split == name] for name in ("train", "validation", "test")}
    if settings.aspects is not None:
        for name in ("train", "validation"):
            parts[name] = [n for n in parts[name] if records[n].aspect in settings.aspects]
    for name, part in parts.items():
        if not part:
            raise RunError(f"{_STAGE}: no pair is left for {name}: make pairs of more captions, or see reward.{name}")
    return SplitPairs(records, data, list(images), *(torch.tensor(part) for part in parts.values()))


def find_pairs_mark(context: Context) -> str | None:
    """Return the mark of the finished pairs; None before they are finished."""
    finished = context.run.find_finished("pairs")
    return None if finished is None else finished.mark


def _resize_candidates(context: Context, model: RewardModel, images: Mapping[str, str]) -> Iterator[Tensor]:
    files = (row["image"]["bytes"] for row in context.run.rows("candidates", ["key", "image"]) if row["key"] in images)
    with context.progress.stage(f"{_STAGE}: resizing", len(images), "images") as task:
        for batch in iterate_batches(files, _RESIZED_AT_ONCE):
            yield model.resize_images([decode_image(file) for file in batch])
            task.advance(len(batch))

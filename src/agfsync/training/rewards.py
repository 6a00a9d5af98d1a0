"""Scorers as rewards of a training: a weighted sum of scores; an image that lacks one of them has no reward."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import torch
from PIL import Image
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.records import Question
from agfsync.scorers import Item, Measurement, Scorer


@dataclass(frozen=True, slots=True)
class RewardedImages:
    """The rewards of a batch of images, float64 (B,), NaN where a scorer gave no score, and each scorer's scores."""

    total_B: Tensor
    scores: Mapping[str, Tensor]


@dataclass(slots=True)
class Rewards:
    """The weighted scorers of a training. Their models are loaded when the first image is scored.

    `load` loads a scorer by its name. `failures` counts the reasons for which images have no reward.
    """

    weights: Mapping[str, float]
    load: Callable[[str], Scorer]
    failures: Counter[str] = field(default_factory=Counter)
    _scorers: dict[str, Scorer] = field(default_factory=dict)

    def find_scorer(self, name: str) -> Scorer:
        """Return the scorer `name`, loaded once."""
        if name not in self._scorers:
            self._scorers[name] = self.load(name)
        return self._scorers[name]

    def score(
        self, images: Sequence[Image.Image], prompts: Sequence[str], questions: Sequence[tuple[Question, ...]]
    ) -> RewardedImages:
        """Return the rewards of `images`, on the scale of the weighted scores.

        Raises:
            ModelError: a scorer can't be loaded, or the number of its results isn't the number of images.
        """
        items = [Item(*each) for each in zip(prompts, questions, images, strict=True)]
        scores = {name: self._score_by(name, items) for name in self.weights}
        total_B = torch.stack([self.weights[name] * of for name, of in scores.items()]).sum(dim=0)
        return RewardedImages(total_B, scores)

    def _score_by(self, name: str, items: Sequence[Item]) -> Tensor:
        results = self.find_scorer(name).score(items) if items else []
        if len(results) != len(items):
            raise ModelError(f"scorer '{name}' gave {len(results)} results for {len(items)} images: mend the scorer")
        for each in results:
            if not isinstance(each, Measurement):
                self.failures[f"no {name} score: {each.reason}"] += 1
        values = [each.value if isinstance(each, Measurement) else nan for each in results]
        return torch.tensor(values, dtype=torch.float64)


def standardise_rewards(rewards_B: Tensor, groups_B: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Return (r - mean of its group) / (std of all + epsilon); 0 if all rewards of a group are equal, NaN stays NaN.

    The standard deviation is the population's, over all groups (the option `global_std` of Flow-GRPO's code, with which
    Flow-GRPO, DiffusionNFT and AWM are run). With a standard deviation per group, a group of nearly equal images would
    have the same weight as a group of good and bad ones.

    Args:
        groups_B: the group of each reward, int64 (B,).
    """
    centred_B = torch.full_like(rewards_B, nan)
    for group in groups_B.unique():
        scored_B = (groups_B == group) & rewards_B.isfinite()
        centred_B[scored_B] = rewards_B[scored_B] - rewards_B[scored_B].mean()
    return centred_B / (rewards_B[rewards_B.isfinite()].std(correction=0) + epsilon)

"""Fine-tuning on candidates with the model's own loss: DreamSync, RAFT, reward-weighted regression, and a control."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agfsync.choices import CandidateScores, weighted_sum
from agfsync.records import derive_seed
from agfsync.training.methods.rated import RatedErrors, RatedMethod, Ratings
from agfsync.training.objective import Metrics


class SupervisedMethod(RatedMethod):
    """Fine-tuning: the loss is the mean of the images' errors, each times the image's rating."""

    def compute_loss(self, errors: RatedErrors) -> tuple[Tensor, Metrics]:
        loss = (errors.rating_B * errors.error_B).mean()
        return loss, {"loss": loss.detach()}


@dataclass(frozen=True)
class Best(SupervisedMethod):
    """The method `best`: the best `keep` candidates of each caption by the weighted sum of `reward`.

    Candidates below a threshold in `at_least`, by scorer, are left out: DreamSync (Sun et al. 2023, arXiv:2311.17946)
    uses vqa 90 and aesthetic 60. Without thresholds this is RAFT (Dong et al. 2023, arXiv:2304.06767). A candidate
    that lacks a score is also left out, so that a caption may have no candidate.
    """

    reward: Mapping[str, float]
    keep: int = 1
    at_least: Mapping[str, float] = field(default_factory=dict)

    def rate(self, values: Mapping[str, CandidateScores]) -> Ratings:
        passed = {key: of for key, of in values.items() if _reaches(of, self.at_least)}
        sums = sum_rewards(passed, self.reward)
        return dict.fromkeys(sorted(sums, key=sums.__getitem__, reverse=True)[: self.keep], 1.0)


@dataclass(frozen=True)
class RewardWeighted(SupervisedMethod):
    """The method `reward-weighted`: every candidate, weighted by exp(reward / `temperature`).

    This is reward-weighted regression (Lee et al. 2023, arXiv:2302.12192; RWR in DDPO's code). The weights of a
    caption's candidates have a mean of 1, so that their scale is the same for every caption. `temperature` is in units
    of the weighted sum.
    """

    reward: Mapping[str, float]
    temperature: float = 5.0

    def rate(self, values: Mapping[str, CandidateScores]) -> Ratings:
        sums = sum_rewards(values, self.reward)
        weights_N = torch.tensor(list(sums.values()), dtype=torch.float64).div(self.temperature).softmax(0)
        return dict(zip(sums, (weights_N * len(sums)).tolist(), strict=True))


@dataclass(frozen=True)
class RandomCandidate(SupervisedMethod):
    """The method `random-sft`: a random candidate of each caption; the scores are ignored.

    It is the control of the other methods: it also trains on the model's own images, but without any preference.
    """

    seed: int = 0

    def rate(self, values: Mapping[str, CandidateScores]) -> Ratings:
        return {min(values, key=lambda key: derive_seed(self.seed, "random-sft", key)): 1.0}


def sum_rewards(values: Mapping[str, CandidateScores], reward: Mapping[str, float]) -> dict[str, float]:
    """Return the weighted sum for each candidate that has all scores of `reward`."""
    weights = {name: weight for name, weight in reward.items() if weight}
    return {key: total for key, of in values.items() if (total := weighted_sum(of, weights)) is not None}


def _reaches(scores: CandidateScores, at_least: Mapping[str, float]) -> bool:
    values = {name: scores.get(name) for name in at_least}
    return all(value is not None and value >= at_least[name] for name, value in values.items())

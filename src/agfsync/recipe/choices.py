"""The settings of each type of choice: the rules that make pairs of a caption's scored candidates."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from agfsync.recipe.base import Section


class ChoiceSettings(Section):
    """A rule that makes pairs of scored candidates: its type in the catalog and the settings of its type."""

    total: ClassVar[str] = "total"
    """the name of the winner's and loser's score; empty if they have no meaning"""
    picks: ClassVar[str] = "the best and the worst candidate of a caption"
    """a description of the two candidates of a pair"""
    goes_by: ClassVar[str] = "the choice {type}"
    """a description of the criterion, with {weights} or {judges} in place of the scorers"""
    type: str = "best-worst"

    @property
    def scorers(self) -> dict[str, float]:
        """The scorers that the rule reads with their weights, which are 1 if the rule has none."""
        return dict(getattr(self, "weights", {})) or dict.fromkeys(getattr(self, "judges", ()), 1.0)

    @property
    def named_by(self) -> str:
        """The key that names the scorers."""
        return "weights" if hasattr(self, "weights") else "judges"

    @property
    def criterion(self) -> str:
        """The description of the criterion, with the names of the scorers."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.scorers.items() if weight)
        return self.goes_by.format(type=self.type, weights=weights, judges=", ".join(self.scorers))

    def count_most_pairs(self, candidates: int) -> int:
        """Return an upper bound of the number of pairs of a caption with this number of candidates."""
        return 1


class BestWorstSettings(ChoiceSettings):
    """The choice type `best-worst`: argmax and argmin of the weighted sum (Eq. 5 to 7)."""

    total: ClassVar[str] = "weighted sum"
    goes_by: ClassVar[str] = "the weighted sum of the scores {weights}"
    weights: dict[str, float] = Field(default={"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10})
    minimum_margin: float = Field(default=0.0, ge=0)
    """the least difference of winner and loser (exclusive) in the weighted sum, on 0..100; with pairs.normalise in that
    of the normalised scores"""

    @field_validator("weights")
    @classmethod
    def _has_a_weight(cls, weights: dict[str, float]) -> dict[str, float]:
        if not any(weights.values()):
            raise ValueError("the weights are all 0: give at least one scorer a weight")
        return weights


class EverySettings(BestWorstSettings):
    """The choice type `every`: all ordered pairs of a caption's candidates, the higher weighted sum wins."""

    picks: ClassVar[str] = "every two candidates of a caption, ordered"

    def count_most_pairs(self, candidates: int) -> int:
        """Return an upper bound of the number of pairs of a caption with this number of candidates."""
        return candidates * (candidates - 1) // 2


class CalibratedSettings(BestWorstSettings):
    """The choice type `calibrated`: best and worst by the weighted sum of expected win rates (CaPO).

    Each judge's score becomes the win rate that it expects of the candidate against the caption's other candidates, by
    the Bradley-Terry model, on 0..100.
    """

    total: ClassVar[str] = "weighted win rate"
    goes_by: ClassVar[str] = "the weighted sum of the expected win rates {weights}"
    scale: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """a judge's points per unit of log-odds: with 10, a candidate 10 points above another wins in 73 %. Default: 1 for
    each judge, as in PickScore's and HPSv2's preference models; differences of many units reduce to ranks. With
    pairs.normalise: z-score, the unit is a standard deviation"""

    @model_validator(mode="after")
    def _scales_are_of_judges(self) -> Self:
        for name in self.scale.keys() - self.weights.keys():
            raise ValueError(f"scale names '{name}', which has no weight: there are {', '.join(self.weights)}")
        return self


class JudgesSettings(ChoiceSettings):
    """The base of the choices without weights: `pareto`, `vote` and `by-aspect`."""

    judges: tuple[str, ...] = Field(default=("vqa", "clip", "aesthetic"), min_length=1)
    """the scorers that choose; all others stay independent"""
    minimum_margin: float = Field(default=0.0, ge=0)

    @field_validator("judges")
    @classmethod
    def _name_each_once(cls, judges: tuple[str, ...]) -> tuple[str, ...]:
        for name in judges:
            if judges.count(name) > 1:
                raise ValueError(f"'{name}' is listed twice: name each judge once")
        return judges


class ParetoSettings(JudgesSettings):
    """The choice type `pareto`: winner from the upper, loser from the lower Pareto front of all judges (CaPO)."""

    total: ClassVar[str] = "mean rank"
    goes_by: ClassVar[str] = "the Pareto fronts of {judges}"
    minimum_margin: float = Field(default=0.0, ge=0)
    """the least difference of winner and loser (exclusive) in the mean rank among the candidates, on 0..100"""


class VoteSettings(JudgesSettings):
    """The choice type `vote`: the judges vote on every two candidates (BalancedDPO)."""

    total: ClassVar[str] = "votes"
    goes_by: ClassVar[str] = "the votes of {judges}"
    minimum_margin: float = Field(default=0.0, ge=0)
    """the winner's lead in votes must exceed this: with three judges, 2 requires all three votes"""

    @model_validator(mode="after")
    def _margin_can_be_had(self) -> Self:
        if self.minimum_margin >= len(self.judges):
            count = len(self.judges)
            raise ValueError(f"minimum_margin {self.minimum_margin:g} leaves no pair: there are {count} votes")
        return self


class ByAspectSettings(JudgesSettings):
    """The choice type `by-aspect`: a pair for each judge, of the candidates that it scores highest and lowest."""

    total: ClassVar[str] = "its judge's score"
    goes_by: ClassVar[str] = "each of {judges} alone"
    minimum_margin: float = Field(default=0.0, ge=0)
    """the least difference of winner and loser (exclusive) in each judge's scores, on 0..100"""
    couples: Literal["extremes", "every"] = "extremes"
    """the pairs of a caption and judge: the best and the worst candidate, or every two that differ. Two candidates on
    which an annotator contradicts itself in another order of the images are a tie, and give no pair"""

    def count_most_pairs(self, candidates: int) -> int:
        """Return an upper bound of the number of pairs of a caption with this number of candidates."""
        return len(self.judges) * (candidates * (candidates - 1) // 2 if self.couples == "every" else 1)


class LotSettings(ChoiceSettings):
    """The choice type `lot`: winner and loser are drawn at random, as a control without any judge.

    It reads no scorer: to score the candidates nevertheless, name scorers under scores.by.
    """

    total: ClassVar[str] = ""
    picks: ClassVar[str] = "two candidates of a caption"
    goes_by: ClassVar[str] = "lot"
    seed: int = Field(default=0, ge=0)
    """the seed of the random choice"""

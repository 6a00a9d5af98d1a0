"""The settings of each type of choice: how pairs are made of a caption's scored candidates."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from agfsync.recipe.base import Section


class ChoiceSettings(Section):
    """A rule that makes pairs of scored candidates: its type in the catalog and the settings of its type."""

    total: ClassVar[str] = "total"
    """what a winner's and a loser's score are; empty if they say nothing"""
    picks: ClassVar[str] = "the best and the worst candidate of a caption"
    """what makes a pair, for people"""
    goes_by: ClassVar[str] = "the choice {type}"
    """the scores that `picks` goes by, for people, with {weights} or {judges} where the scorers are named"""
    type: str = "best-worst"

    @property
    def scorers(self) -> dict[str, float]:
        """The scorers that the rule reads, each with its weight; 1 for each where the rule has no weights."""
        return dict(getattr(self, "weights", {})) or dict.fromkeys(getattr(self, "judges", ()), 1.0)

    @property
    def named_by(self) -> str:
        """The key that names the scorers."""
        return "weights" if hasattr(self, "weights") else "judges"

    @property
    def criterion(self) -> str:
        """The scores that `picks` goes by, for people."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.scorers.items() if weight)
        return self.goes_by.format(type=self.type, weights=weights, judges=", ".join(self.scorers))

    def count_most_pairs(self, candidates: int) -> int:
        """Return an upper bound of the pairs of a caption with so many candidates."""
        return 1


class BestWorstSettings(ChoiceSettings):
    """The choice type `best-worst`: argmax and argmin of the weighted sum (Eq. 5 to 7)."""

    total: ClassVar[str] = "weighted sum"
    goes_by: ClassVar[str] = "the weighted sum of the scores {weights}"
    weights: dict[str, float] = Field(default={"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10})
    minimum_margin: float = Field(default=0.0, ge=0)
    """winner and loser must lie further apart than this, on the weighted sum's 0..100. With pairs.normalise on that of
    the normalised scores"""

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
        """Return an upper bound of the pairs of a caption with so many candidates."""
        return candidates * (candidates - 1) // 2


class CalibratedSettings(BestWorstSettings):
    """The choice type `calibrated`: best and worst by the weighted sum of expected win rates (CaPO).

    Each judge's score becomes the win rate that it expects of the candidate against the caption's other candidates, by
    the Bradley-Terry model, on 0..100.
    """

    total: ClassVar[str] = "weighted win rate"
    goes_by: ClassVar[str] = "the weighted sum of the expected win rates {weights}"
    scale: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """a judge's points per unit of log-odds: with 10, one that lies 10 points higher wins in 73 %. Default: 1 for each,
    which is PickScore's and HPSv2's own model of preferences; a judge whose scores lie many units apart gives bare
    ranks. With pairs.normalise: z-score it counts standard deviations"""

    @model_validator(mode="after")
    def _scales_are_of_judges(self) -> Self:
        for name in self.scale.keys() - self.weights.keys():
            raise ValueError(f"scale names '{name}', which has no weight: there are {', '.join(self.weights)}")
        return self


class JudgesSettings(ChoiceSettings):
    """The base of the choices without weights: `pareto`, `vote` and `by-aspect`."""

    judges: tuple[str, ...] = Field(default=("vqa", "clip", "aesthetic"), min_length=1)
    """the scorers that choose; one that isn't among them stays independent"""
    minimum_margin: float = Field(default=0.0, ge=0)

    @field_validator("judges")
    @classmethod
    def _name_each_once(cls, judges: tuple[str, ...]) -> tuple[str, ...]:
        for name in judges:
            if judges.count(name) > 1:
                raise ValueError(f"'{name}' is there twice: each judge once")
        return judges


class ParetoSettings(JudgesSettings):
    """The choice type `pareto`: winner from the upper, loser from the lower Pareto front of all judges (CaPO)."""

    total: ClassVar[str] = "mean rank"
    goes_by: ClassVar[str] = "the Pareto fronts of {judges}"
    minimum_margin: float = Field(default=0.0, ge=0)
    """winner and loser must lie further apart than this, by their mean rank among the candidates on 0..100"""


class VoteSettings(JudgesSettings):
    """The choice type `vote`: the judges vote on every two candidates (BalancedDPO)."""

    total: ClassVar[str] = "votes"
    goes_by: ClassVar[str] = "the votes of {judges}"
    minimum_margin: float = Field(default=0.0, ge=0)
    """the winner must have more than so many votes more than the loser: of three judges, 2 wants all three"""

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
    """winner and loser must lie further apart than this, on each judge's own 0..100"""
    couples: Literal["extremes", "every"] = "extremes"
    """of a caption and judge: the best and the worst candidate, or every two that differ. A couple on which an
    annotator contradicts itself when it sees the images in another order is a tie, and gives no pair"""

    def count_most_pairs(self, candidates: int) -> int:
        """Return an upper bound of the pairs of a caption with so many candidates."""
        return len(self.judges) * (candidates * (candidates - 1) // 2 if self.couples == "every" else 1)


class LotSettings(ChoiceSettings):
    """The choice type `lot`: winner and loser drawn by lot, a control that no judge has a part in.

    It reads no scorer: name those that are to judge the candidates nevertheless under scores.by.
    """

    total: ClassVar[str] = ""
    picks: ClassVar[str] = "two candidates of a caption"
    goes_by: ClassVar[str] = "lot"
    seed: int = Field(default=0, ge=0)
    """another one draws other lots"""

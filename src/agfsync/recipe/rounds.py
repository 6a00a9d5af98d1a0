"""The sections `rounds`, in which the aligned model draws the next candidates, and `start`, a round's initial model."""

from typing import Literal

from pydantic import Field

from agfsync.recipe.base import Positive, Section


class Stop(Section):
    """The rule that ends the rounds before `count`."""

    by: str
    """a scorer that nothing trains on"""
    set: str = "held-out"
    """the evaluation set that it judges"""
    gain: float = 0.0
    """the least mean gain over the previous round (for the first round: over the base), on the same captions"""


class Rounds(Section):
    """Successive trainings, each on candidates that the previous round's model draws."""

    count: int = Field(default=3, ge=2)
    """the total number of rounds; the first is the run itself"""
    reference: Literal["base", "previous"] = "previous"
    """the frozen model that a method compares with, from the second round on: the model before the first round, or the
    one that the previous round trained"""
    captions: Literal["same", "new"] = "new"
    """the captions of a round: those of the first round, or as many new ones; from a file, its next ones"""
    stop: Stop | None = None
    """absent: all rounds are run"""


class Start(Section):
    """A trained model that draws the candidates and that the training continues; `rounds` writes this section."""

    path: str
    """the folder of a trained model, with its model.json"""
    mark: str = ""
    """the model's identity: if it changes, results of the model are regenerated. Default: its path"""
    reference: Literal["base", "previous"] = "previous"
    """the frozen model that the method compares with: `model`, or this one"""
    round: Positive = 1
    """the number of previous rounds, on which the seeds of the candidates depend"""

    @property
    def identity(self) -> str:
        """The model's mark, or its path if it has none."""
        return self.mark or self.path

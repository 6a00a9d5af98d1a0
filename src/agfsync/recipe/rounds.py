"""The sections `rounds`, by which the aligned model draws the next candidates, and `start`, its place in a round."""

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
    """the least mean gain over the previous round, on the same captions; before the first round that is the base"""


class Rounds(Section):
    """Trainings one after the other, each on candidates that the one before it draws."""

    count: int = Field(default=3, ge=2)
    """rounds in all; the first is the run itself"""
    reference: Literal["base", "previous"] = "previous"
    """the frozen model that a method compares with, from the second round on: the model before the first round, or the
    one that the previous round trained"""
    captions: Literal["same", "new"] = "new"
    """whose candidates a round draws: the first round's captions, or as many new ones. With a file, its next ones"""
    stop: Stop | None = None
    """absent: all rounds are run"""


class Start(Section):
    """The trained model of a run that candidates are drawn with and that is trained further; `rounds` writes it."""

    path: str
    """the folder of a trained model, with its model.json"""
    mark: str = ""
    """what the model is known by, whose results are regenerated when it changes. Default: its path"""
    reference: Literal["base", "previous"] = "previous"
    """the frozen model that the method compares with: `model`, or this one"""
    round: Positive = 1
    """rounds before: candidates of another round are drawn from other seeds"""

    @property
    def identity(self) -> str:
        """The model's mark, or its path where it has none."""
        return self.mark or self.path

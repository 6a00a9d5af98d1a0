"""The section `reward`: a reward model that is trained on the pairs, before the generator."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agfsync.recipe.base import DtypeName, Positive, Section
from agfsync.recipe.types import MethodOfType

HeldOutShare = Annotated[float, Field(gt=0, lt=0.5)]


class Reward(Section):
    """The stage between pairs and training: a reward model, which scorers with the path run:reward use."""

    method: MethodOfType
    """bradley-terry"""
    seed: int | None = Field(default=None, ge=0)
    """seed of the order, the dropout and the head's initial weights; default: the run's seed"""
    steps: Positive | None = None
    """default: the number of steps in `epochs`"""
    epochs: float = Field(default=10.0, gt=0)
    """times that each pair is trained on, if `steps` is absent"""
    batch: Positive = 64
    """pairs in a step"""
    learning_rate: float = Field(default=1e-5, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    """steps over which the learning rate rises to its full value"""
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: DtypeName = "auto"
    """the number format of the network's computation; the trained weights stay fp32"""
    checkpoint_every: Positive = 50
    """steps"""
    accumulate: Positive = 1
    """gradient accumulation: the number of parts into which a step's pairs are split"""
    share: float = Field(default=1.0, gt=0, le=1)
    """share of the training prompts that are trained on, by their keys: a larger share contains the smaller one. The
    prompts of validation and test stay the same"""
    aspects: tuple[str, ...] | None = Field(default=None, min_length=1)
    """train on the pairs of these aspects only; the test is on all. Default: all"""
    validation: HeldOutShare = 0.1
    """share of the prompts, by their keys, on whose pairs the validation loss is measured; the weights with the lowest
    loss are the result"""
    test: HeldOutShare = 0.1
    """share of the prompts on whose pairs the accuracy is measured; they are used for nothing else"""
    validations: Positive = 4
    """measurements of the validation loss in an epoch"""
    by: tuple[str, ...] | None = None
    """scorers whose accuracy on the test pairs is compared; default: all"""

    @model_validator(mode="after")
    def _trains_a_reward_model(self) -> Self:
        if self.method.trains != "reward":
            raise ValueError(f"reward.method {self.method.type} trains no reward model: take bradley-terry")
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate splits the {self.batch} pairs of reward.batch into {self.accumulate} parts")
        return self

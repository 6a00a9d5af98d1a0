"""The sections `evaluation` and `report` of a recipe."""

from typing import Literal

from pydantic import Field, field_validator

from agfsync import catalog
from agfsync.recipe.base import HELD_OUT, Positive, Section, SourcePath
from agfsync.recipe.types import (
    PairwiseOfType,
)


class EvaluationSet(Section):
    """Captions that base and aligned model are compared on, and the scorers that judge the images."""

    source: SourcePath | None = None
    """a file or folder of prompts; where it has questions on a prompt, they are asked. The set held-out has none: its
    captions are those that captions.held_out keeps apart"""
    split: str = ""
    """of a source that is a folder with several"""
    count: Positive | None = None
    """prompts that are taken, spread evenly over the source's categories; default: all"""
    by: tuple[str, ...] | None = None
    """the scorers; default: all"""
    measure: str | None = None
    """a benchmark's own rule, by which each judge's scores of the set are also summed up: tifa, dsg, dpg, hpsv2,
    soft-tifa or t2i-compbench"""
    of: str | None = None
    """of a set that is judged pairwise: the set whose captions and images it takes"""
    pairwise: PairwiseOfType | None = None
    """the judge that sees base and aligned image of each caption side by side, in both orders"""

    @field_validator("measure")
    @classmethod
    def _is_known(cls, measure: str | None) -> str | None:
        if measure is not None and measure not in (there := catalog.list_names("measures")):
            raise ValueError(f"there are the measures {', '.join(there)}")
        return measure


class Evaluation(Section):
    """Stage 7: base against aligned model on each set of captions, from the same seeds."""

    sets: dict[str, EvaluationSet] = Field(default={HELD_OUT: EvaluationSet()}, min_length=1)
    """the first one is the verdict's"""
    controls: tuple[Literal["random-sft", "by-lot"], ...] = ()
    """trainings without the feedback, as long as the run's own, that the aligned model is compared with: random-sft
    fine-tunes on a random candidate of each caption; by-lot draws winner and loser of each pair by lot"""
    per_caption: Positive = 1
    """images of each caption of the first set that either model draws. With more than one the report compares how
    different a caption's images are, since a model that is trained too long draws them all alike"""
    reference: SourcePath | None = None
    """a folder of images, such as photographs: the report says how far the first set's images of either model are from
    them as a whole (CMMD)"""
    embedding: str | None = None
    """the scorer whose embeddings of images these two are measured in; default: the first of type clip"""
    resamples: Positive = 10_000
    """of the paired bootstrap"""
    batch: Positive = 64
    """images drawn at a time; fewer where memory runs out"""

    @property
    def first_set(self) -> str:
        """The name of the verdict's set."""
        return next(iter(self.sets))


class Report(Section):
    """Stage 8: the report."""

    examples: Positive = 12
    """images a gallery"""
    checks: tuple[SourcePath, ...] = ()
    """files that `agfsync judge PAIRS --out` has written: the report warns of a judge with more than a third of the
    weight that is near a coin toss on one of these pair sets"""

"""The sections `evaluation` and `report` of a recipe."""

from typing import Literal

from pydantic import Field, field_validator

from agfsync import catalog
from agfsync.recipe.base import HELD_OUT, Positive, Section, SourcePath
from agfsync.recipe.types import (
    PairwiseOfType,
)


class EvaluationSet(Section):
    """Captions on which the base and the aligned model are compared, and the scorers that judge the images."""

    source: SourcePath | None = None
    """a file or folder of prompts; its questions on a prompt are used, too. The set held-out has no source: its
    captions are those of captions.held_out"""
    split: str = ""
    """the split of a source that is a folder with several"""
    count: Positive | None = None
    """the number of prompts, spread evenly over the source's categories; default: all"""
    by: tuple[str, ...] | None = None
    """the scorers; default: all"""
    measure: str | None = None
    """a benchmark's own rule to aggregate each judge's scores of the set, too: tifa, dsg, dpg, hpsv2, soft-tifa or
    t2i-compbench"""
    of: str | None = None
    """for a set that is judged pairwise: the set whose captions and images it uses"""
    pairwise: PairwiseOfType | None = None
    """the judge that compares the base and the aligned image of each caption, in both orders"""

    @field_validator("measure")
    @classmethod
    def _is_known(cls, measure: str | None) -> str | None:
        if measure is not None and measure not in (known := catalog.list_names("measures")):
            raise ValueError(f"there are the measures {', '.join(known)}")
        return measure


class Evaluation(Section):
    """Stage 7: base against aligned model on each set of captions, from the same seeds."""

    sets: dict[str, EvaluationSet] = Field(default={HELD_OUT: EvaluationSet()}, min_length=1)
    """the first one decides the report's verdict"""
    controls: tuple[Literal["random-sft", "by-lot"], ...] = ()
    """trainings without the feedback, as long as the run's own, with which the aligned model is compared: random-sft
    fine-tunes on a random candidate of each caption; by-lot chooses winner and loser of each pair at random"""
    per_caption: Positive = 1
    """images that each model draws of each caption of the first set. With more than one, the report compares the
    diversity of a caption's images, since a model that is trained too long draws them all alike"""
    reference: SourcePath | None = None
    """a folder of images, such as photographs: the report has the distance of each model's images of the first set from
    them (CMMD)"""
    embedding: str | None = None
    """the scorer whose image embeddings are used for per_caption and reference; default: the first of type clip"""
    resamples: Positive = 10_000
    """the number of resamples of the paired bootstrap"""
    batch: Positive = 64
    """images drawn at a time; fewer if memory runs out"""

    @property
    def first_set(self) -> str:
        """The name of the set that decides the verdict."""
        return next(iter(self.sets))


class Report(Section):
    """Stage 8: the report."""

    examples: Positive = 12
    """images in a gallery"""
    checks: tuple[SourcePath, ...] = ()
    """files that `agfsync judge PAIRS --out` has written: the report warns of a judge with more than a third of the
    weight whose accuracy on one of these pair sets is near that of a coin toss"""

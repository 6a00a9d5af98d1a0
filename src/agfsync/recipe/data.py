"""The sections of a recipe on its data: captions, questions, candidates, scores and pairs."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from agfsync.recipe.base import Positive, Section, SourcePath
from agfsync.recipe.choices import BestWorstSettings
from agfsync.recipe.types import (
    CaptionWriterOfType,
    ChoiceOfType,
    ModelOfType,
    PolisherOfType,
    QuestionWriterOfType,
    asks_language_model,
)
from agfsync.recipe.writers import WriterSettings


def _asks_a_model(kind: str, tree: Any) -> bool:
    return isinstance(tree, dict) and asks_language_model(kind, tree.get("writer", "shapes"))


class Captions(Section):
    """Stage 1: the captions to draw."""

    writer: CaptionWriterOfType = WriterSettings()
    source: SourcePath | None = None
    """a file or folder of prompts, used instead of the writer; its questions on a prompt are used, too"""
    split: str = ""
    """the split of a source that is a folder with several, such as "validation", or "all". Default: train"""
    count: int = Field(default=128, ge=0)
    """captions to train on, spread evenly over the writer's categories; a pair set brings its own. 0: none, for a
    method without training data"""
    held_out: int = Field(default=200, ge=0)
    """captions held out for the evaluation"""
    skip: int = Field(default=0, ge=0)
    """the number of captions to train on to leave out, the first of each category: those of earlier rounds"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """the similarity (Jaccard of n-grams) from which on two of the writer's captions of a category are duplicates; 1:
    only equal ones. Default with a language model: 0.7"""

    words: tuple[Positive, Positive] | None = None
    """the fewest and the most words of a caption that a writer writes; others are left out and counted. Absent: any
    number. Default with a language model: [4, 60]"""
    polish: PolisherOfType | None = None
    """a language model that rewrites the prompts of the writer or the source without bias, inconsistency and unsafe
    content; the original and a note of the changes are kept with each. Prompts that it refuses, or whose rewriting is
    unusable, are skipped. Absent: prompts aren't changed"""

    @field_validator("words")
    @classmethod
    def _from_fewer_to_more(cls, words: tuple[int, int] | None) -> tuple[int, int] | None:
        if words is not None and words[0] > words[1]:
            raise ValueError(f"the fewest words come first, then the most: [{words[1]}, {words[0]}]")
        return words

    @model_validator(mode="before")
    @classmethod
    def _model_repeats_itself(cls, tree: Any) -> Any:
        return {"similarity": 0.7, "words": [4, 60]} | tree if _asks_a_model("captions", tree) else tree


class Questions(Section):
    """Stage 2: yes/no questions on each caption."""

    writer: QuestionWriterOfType = WriterSettings()
    """writes questions on captions without any in the captions' file. none: no scorer of the recipe needs questions"""
    rounds: Positive = 1
    """the number of requests for each caption; repeated questions are dropped. Default with a language model: 6, as in
    the paper"""
    minimum: int = Field(default=1, ge=0)
    """a caption with fewer valid questions is skipped; the authors' code takes 5. Default with the
    writer none: 0"""
    maximum: Positive | None = None
    """the most valid questions of a caption, of which the first are kept; absent: all"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """the similarity (Jaccard of content words) from which on two questions of a type on the same element are
    duplicates; 1: only equal ones. Default with a language model: 0.8"""
    verify: bool = False
    """let the language model read each caption again, and drop the questions that it doesn't answer with yes"""

    @model_validator(mode="before")
    @classmethod
    def _rounds_of_the_paper(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("writer") in ("none", {"type": "none"}):
            return {"minimum": 0} | tree
        return {"rounds": 6, "similarity": 0.8} | tree if _asks_a_model("questions", tree) else tree

    @model_validator(mode="after")
    def _room_for_the_minimum(self) -> Self:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}: no caption could have both")
        return self


class Candidates(Section):
    """Stage 3: N images of each caption (Eq. 1)."""

    beside: dict[str, ModelOfType] = Field(default={})
    """other models that also draw every caption, under names of your own; they are not aligned"""
    per_caption: Positive = 8
    """images by each model, 2 or more in total; drawn in one batch, or in several if memory runs out"""
    embedding_noise: float = Field(default=0.1, ge=0)
    """sigma of the noise on the text embedding"""

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.per_caption == 1 and not self.beside:
            raise ValueError("per_caption 1 leaves nothing to compare: draw 2 or more, or name other models in beside")
        return self


class Scores(Section):
    """Stage 4: scores of every candidate (Eq. 2 to 4)."""

    by: tuple[str, ...] | None = None
    """the scorers; default: those that pairs.choose reads"""
    batch: Positive = 64
    """candidates scored at a time; fewer if memory runs out"""


class Pairs(Section):
    """Stage 5: pairs of each caption's candidates: by default the best and the worst (Eq. 5 to 7)."""

    source: SourcePath | None = None
    """a pair set: its images are the candidates and its preferences the pairs; nothing is drawn or scored"""
    split: str = ""
    """the split of a pair set that is a folder with several, such as "validation", or "all". Default: train"""
    repeats: Literal["majority", "all"] = "majority"
    """several judgements of the same two images in a pair set give one pair, by majority, or one pair each"""
    choose: ChoiceOfType = BestWorstSettings()
    """how pairs are made of scored candidates. By weights: best-worst of each caption; every two candidates, ordered;
    calibrated, best and worst by expected win rates. By judges without weights: pareto, the winner dominates the loser;
    vote, of the majority; by-aspect, a pair for each judge. lot: at random, as a control"""
    normalise: Literal["none", "z-score", "rank"] = "none"
    """the normalisation of each scorer's scores before pairs.choose reads them, since raw scales matter more than
    weights. none: the raw scores, as in the paper; z-score: minus the mean, over the standard deviation; rank: the
    share of the other scores that a score beats, on 0..100, where ties count one half. Missing scores stay missing"""
    normalise_over: Literal["caption", "run"] = "caption"
    """the scores that pairs.normalise compares a score with: those of the caption's candidates, or of all candidates of
    the run, where a caption whose candidates differ little gives a small margin"""
    share: float = Field(default=1.0, gt=0, le=1)
    """share of the captions that give pairs, chosen by their keys: a larger share contains the smaller one"""

    @model_validator(mode="after")
    def _has_scores_to_normalise(self) -> Self:
        if self.normalise != "none" and self.source is not None:
            raise ValueError("normalise needs scores, and the pairs of a source have none: leave out normalise")
        if self.normalise == "none" and self.normalise_over != "caption":
            raise ValueError("normalise_over changes nothing without normalise: set that to z-score or rank")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The scorers that the choice reads with their weights, which are 1 if it has none."""
        return self.choose.scorers

    @property
    def criterion(self) -> str:
        """The criterion in words, such as "the weighted sum of the scores vqa 0.35, clip 0.55"."""
        if self.normalise == "none":
            return self.choose.criterion
        whose = "of the caption" if self.normalise_over == "caption" else "of the run"
        return f"{self.choose.criterion}, each as its {self.normalise} among those {whose}"

    @property
    def summary(self) -> str:
        """The rule that makes a pair, in words; empty for the pairs of a source."""
        return "" if self.source else f"{self.choose.picks} by {self.criterion}"

"""The sections of a recipe that make its data: captions, questions, candidates, scores and pairs."""

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
    """a file or folder of prompts, in the writer's place; where it has questions on a prompt, they are asked"""
    split: str = ""
    """of a source that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    count: int = Field(default=128, ge=0)
    """captions to make pairs of, spread evenly over the writer's categories; a pair set brings its own. 0: none, for a
    method that learns from nothing"""
    held_out: int = Field(default=200, ge=0)
    """captions kept apart for the evaluation"""
    skip: int = Field(default=0, ge=0)
    """captions to train on that are left out, the first ones of each category: those of earlier rounds"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """from which on two of the writer's captions of a category are too alike (Jaccard of n-grams); 1: only if they are
    the same. With a language model 0.7 unless said otherwise"""

    words: tuple[Positive, Positive] | None = None
    """the fewest and the most words of a caption that a writer writes; others are left out and counted. Absent: any
    number. With a language model [4, 60] unless said otherwise"""
    polish: PolisherOfType | None = None
    """a language model that rewrites the prompts of the writer or the source without bias, inconsistency and unsafe
    content; the original is kept beside each, and what was changed. Those that it refuses, or whose rewriting can't be
    used, are skipped. Absent: prompts stay as they are"""

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
    """asks where the captions' file has no question on a caption. none: no scorer of the recipe needs questions"""
    rounds: Positive = 1
    """times each caption is processed; repeated questions are dropped. With a language model 6, as in the paper, unless
    said otherwise"""
    minimum: int = Field(default=1, ge=0)
    """a caption with fewer valid questions is skipped; the authors' code takes 5. With the writer none 0 unless said
    otherwise"""
    maximum: Positive | None = None
    """a caption keeps its first so many valid questions; absent: all"""
    similarity: float = Field(default=1.0, gt=0, le=1)
    """from which on two questions of a type, on the same element, are too alike (Jaccard of the words that say
    something); 1: only if they are the same. With a language model 0.8 unless said otherwise"""
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
    """images by each model, 2 or more in all; drawn together, or where memory runs out in parts"""
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
    """candidates scored at a time; fewer where memory runs out"""


class Pairs(Section):
    """Stage 5: pairs of each caption's candidates: by default the best and the worst (Eq. 5 to 7)."""

    source: SourcePath | None = None
    """a pair set: its images are the candidates and its preferences the pairs, nothing is drawn, scored or weighed"""
    split: str = ""
    """of a pair set that is a folder with several, such as "validation", or "all" of them. Default: its train split"""
    repeats: Literal["majority", "all"] = "majority"
    """several judgements of the same two images in a pair set: one pair, by their majority; or a pair of each"""
    choose: ChoiceOfType = BestWorstSettings()
    """how pairs are made of scored candidates. By weights: best-worst of each caption; every two candidates, ordered;
    calibrated, best and worst by expected win rates. By judges without weights: pareto, the winner dominates the loser;
    vote, of the majority; by-aspect, a pair for each judge. lot: drawn by lot, as a control"""
    normalise: Literal["none", "z-score", "rank"] = "none"
    """of each scorer's scores, before pairs.choose sees them, since raw scales decide more than weights do. none: the
    raw scores, as in the paper; z-score: less the mean, over the standard deviation; rank: the share of the other
    scores that a score beats, on 0..100, an equal one counts one half. A candidate without a score stays without"""
    normalise_over: Literal["caption", "run"] = "caption"
    """whose scores pairs.normalise compares a score with: those of the caption's candidates, or of all the run's. Over
    the run a caption whose candidates differ little gives a small margin"""
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
        """The scorers that the choice reads, each with its weight; 1 for each where it has no weights."""
        return self.choose.scorers

    @property
    def criterion(self) -> str:
        """The rule that decides who wins, for people: "the weighted sum of the scores vqa 0.35, clip 0.55"."""
        if self.normalise == "none":
            return self.choose.criterion
        whose = "of the caption" if self.normalise_over == "caption" else "of the run"
        return f"{self.choose.criterion}, each as its {self.normalise} among those {whose}"

    @property
    def summary(self) -> str:
        """The rule that makes a pair, for people; empty for the pairs of a source."""
        return "" if self.source else f"{self.choose.picks} by {self.criterion}"

"""Scorers: (prompt, questions, image) -> a number in 0..100, one file a scorer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from PIL import Image

from agfsync.errors import BudgetError
from agfsync.records import Answer, Question

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Item:
    """An image to score: RGB, with its prompt and the prompt's questions."""

    prompt: str
    questions: tuple[Question, ...]
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value in 0..100, with its answers if the scorer asks questions."""

    value: float
    answers: tuple[Answer, ...] = ()
    truncated: bool = False
    """True if the scorer saw only the beginning of the prompt."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """The absence of a value, with its reason."""

    reason: str

    @property
    def value(self) -> None:
        """None, as there is no value."""
        return None


class CapReached(BudgetError):
    """A scorer has reached its spending cap; `results` are those of the items before that, in order."""

    def __init__(self, message: str, results: Sequence[Any]) -> None:
        super().__init__(message)
        self.results = results


class Scorer(Protocol):
    """A scorer of images. An item that can't be scored is `Unscored`, never 0.

    A scorer behind a server takes a `Meter` as `meter`, which counts its cost.
    """

    asks_questions: bool
    """True if the value depends on the items' questions. One that takes answers other than yes and no also has
    `takes_any_answer`, True."""

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        """Return one result for each item, in order.

        Raises:
            CapReached: its spending cap is reached.
        """
        ...


@runtime_checkable
class DifferentiableScorer(Scorer, Protocol):
    """A scorer whose values have a gradient with respect to the image, for methods that follow it."""

    def rewards(self, pixels_BCHW: "Tensor", prompts: Sequence[str]) -> "Tensor":
        """Return the values of images with their prompts, float32 (B,), with the gradient of the pixels.

        They are on the scale of `score` and differ from it by less than 0.5 for the same image, since a processor
        of images rounds what it resizes and this doesn't. Where `score` cuts to 0..100 they go on, so that the gradient
        doesn't vanish. The weights and the prompts get no gradient.

        Args:
            pixels_BCHW: RGB, float32 in 0..1, (B, 3, H, W).
            prompts: one an image.

        Raises:
            ModelError: the scorer's model has no gradient that is known here.
        """
        ...


@runtime_checkable
class TruthTeller(Scorer, Protocol):
    """A scorer whose answers are the truth, by which others can be judged. Nothing may be trained on it."""

    knows_truth: bool

    def oppose(self, question: str) -> str:
        """Return a question whose true answer is no wherever that to `question` is yes, or mostly so; empty if none."""
        ...


class ImageEmbedder(Protocol):
    """A scorer that also gives the embeddings of images alone."""

    def embed_images(self, images: Sequence[Image.Image]) -> "Tensor":
        """Return the embeddings of RGB images, each of length 1, float32 on the CPU, (B, E)."""
        ...


def measure_answers(questions: Sequence[Question], found: Sequence[Answer | Unscored]) -> Measurement | Unscored:
    """Return 100 x the share of `questions` with the caption's answer; the first reason why one has no answer, if any.

    `found` are the answers to the questions, in order.
    """
    if not questions:
        return Unscored("no questions")
    if unanswered := next((each for each in found if isinstance(each, Unscored)), None):
        return unanswered
    answers = tuple(each for each in found if isinstance(each, Answer))
    if not all(math.isfinite(answer.p_yes) for answer in answers):
        return Unscored("the model's answer is not a number")
    correct = sum(question.answer == answer.answer for question, answer in zip(questions, answers, strict=True))
    return Measurement(100 * correct / len(questions), answers)


def measure_reward(reward: float, truncated: bool = False) -> Measurement | Unscored:
    """Return 100 x sigmoid of a standardised reward."""
    if not math.isfinite(reward):
        return Unscored("the model's reward is not a number")
    # By the half argument: exp of a very bad reward would overflow.
    return Measurement(50 * (1 + math.tanh(reward / 2)), truncated=truncated)

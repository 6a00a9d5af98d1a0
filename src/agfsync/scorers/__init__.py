"""Scorers: (prompt, questions, image) -> a number in 0..100. Each scorer has its own file."""

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
    """A value in 0..100, with the answers to the questions if the scorer asks any."""

    value: float
    answers: tuple[Answer, ...] = ()
    truncated: bool = False
    """True if the scorer saw only the beginning of the prompt."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """The reason why an item has no value."""

    reason: str

    @property
    def value(self) -> None:
        """Always None."""
        return None


class CapReached(BudgetError):
    """A scorer has reached its spending cap; `results` are those of the items scored before, in order."""

    def __init__(self, message: str, results: Sequence[Any]) -> None:
        super().__init__(message)
        self.results = results


class Scorer(Protocol):
    """A scorer of images. An item that can't be scored is `Unscored`, never 0.

    A scorer behind a server accepts a `Meter` as `meter`, which counts its cost.
    """

    asks_questions: bool
    """True if the value depends on the items' questions. A scorer that supports answers other than yes and no also has
    `takes_any_answer = True`."""

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        """Return one result for each item, in order.

        Raises:
            CapReached: its spending cap is reached.
        """
        ...


@runtime_checkable
class DifferentiableScorer(Scorer, Protocol):
    """A scorer that is differentiable with respect to the image, for methods that use the gradient."""

    def rewards(self, pixels_BCHW: "Tensor", prompts: Sequence[str]) -> "Tensor":
        """Return the values of images with their prompts, float32 (B,), differentiable with respect to the pixels.

        The values are on the scale of `score` and differ from it by less than 0.5 for the same image: an image
        processor rounds the pixels that it resizes, this method doesn't. `score` clamps to 0..100, this method doesn't,
        so that the gradient doesn't vanish. The weights and the prompts get no gradient.

        Args:
            pixels_BCHW: RGB, float32 in 0..1, (B, 3, H, W).
            prompts: one for each image.

        Raises:
            ModelError: no gradient is implemented for the scorer's model.
        """
        ...


@runtime_checkable
class TruthTeller(Scorer, Protocol):
    """A scorer that gives the true answers, to evaluate other judges against. Nothing may be trained on it."""

    knows_truth: bool

    def oppose(self, question: str) -> str:
        """Return a question that is always or mostly false if `question` is true; empty if there is none."""
        ...


class ImageEmbedder(Protocol):
    """A scorer that can also embed images without prompts."""

    def embed_images(self, images: Sequence[Image.Image]) -> "Tensor":
        """Return the unit-norm embeddings of RGB images, float32 (B, E) on the CPU."""
        ...


def measure_answers(questions: Sequence[Question], found: Sequence[Answer | Unscored]) -> Measurement | Unscored:
    """Return 100 x the share of `questions` answered as the caption states.

    `found` are the answers to the questions, in order. If a question has no answer, return the first `Unscored`.
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
    # sigmoid(x) = (1 + tanh(x / 2)) / 2: exp of a very low reward would overflow.
    return Measurement(50 * (1 + math.tanh(reward / 2)), truncated=truncated)

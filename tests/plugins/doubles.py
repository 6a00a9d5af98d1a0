"""Stand-ins for writers, generators and scorers: quick, deterministic, and found by their entry points."""

import os
import random
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from agfsync.errors import ModelError, NoReplyError
from agfsync.language import QuestionDraft
from agfsync.records import Answer
from agfsync.scorers import Item, Measurement, Unscored

LOADED: list[str] = []
"""Models that were loaded, in order."""

ROOM: int | None = None
"""Images that fit into memory at a time; None: any number."""

AT_WORK = "DOUBLES_AT_WORK"
"""Of the environment: a folder in which each process that draws or judges leaves its number."""

PAUSE, SLOW = 0.002, 0.05
"""Seconds that a batch takes, so that there is something to interrupt, and that it takes models called slow."""


class Writer:
    """Captions with a number, of three categories, some repeated; and good and bad questions."""

    identity = "writer"
    concurrency = 1
    categories: ClassVar = ("animals", "food", "plants")

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        rng = random.Random(seed)
        fresh = [f"{category} number {rng.randrange(10_000)}" for _ in range(max(1, count - 2))]
        return [*fresh, fresh[0].upper(), *list(avoid)[:1]]

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        kind = caption.split()[0]
        good = [QuestionDraft(f"Is there {word}?", "Yes.", word, "object") for word in caption.split()]
        bad = [
            QuestionDraft("Is there a dog?", "no", kind, "object"),
            QuestionDraft("Is it old?", "yes", kind, "age"),
            QuestionDraft("Is it a unicorn?", "yes", "unicorn", "object"),
            QuestionDraft("Is it nice?", "yes", kind, "other", valid=False),
        ]
        return [] if caption.endswith("7777") else [*good, *bad]


class DryWriter(Writer):
    """Knows one caption a category."""

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        return [f"the only {category}"]


class AlikeWriter(Writer):
    """Long captions of random letters, each of them also with a word more."""

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        rng = random.Random(seed)
        texts = ["".join(rng.choices("abcdefgh ", k=80)) for _ in range(count)]
        return [each for text in texts for each in (text, f"{text} again")]


class MuteWriter(Writer):
    """Answers neither a request for captions nor every second one for questions; verifies what has an i."""

    identity = "mute"
    concurrency = 4

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> Sequence[str]:
        raise NoReplyError("the server is asleep")

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        if seed % 2:
            raise NoReplyError("the server is asleep")
        return super().questions(caption, seed)

    def verify(self, caption: str, questions: Sequence[str], seed: int) -> Sequence[bool]:
        return ["number" not in question for question in questions]


def _fit(count: int) -> None:
    if ROOM is not None and count > ROOM:
        raise RuntimeError(f"CUDA out of memory. Tried to allocate {count} images")


def _at_work() -> None:
    if folder := os.environ.get(AT_WORK):
        Path(folder, str(os.getpid())).touch()


class Generator:
    """Images of one colour that the seed gives. Of `deadly:TEXT` it is killed by a prompt with that text."""

    def __init__(self, path: str, **settings: Any) -> None:
        if path == "missing":
            raise ModelError("no model at 'missing'")
        LOADED.append(path)
        self.identity = "generator" if path in ("none", "slow") else path
        self.pause = SLOW if path == "slow" else PAUSE
        self.deadly = path.removeprefix("deadly:") if path.startswith("deadly:") else None

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        _at_work()
        if self.deadly is not None and any(self.deadly in prompt for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        _fit(len(seeds))
        time.sleep(self.pause)
        return [Image.new("RGB", (8, 8), (seed % 8 * 32, seed // 8 % 256, seed // 2048 % 256)) for seed in seeds]


class Brightness:
    """The red channel on 0..100, of eight values, so that ties happen.

    `picky` leaves the darkest unscored, `short` says that it cut the prompt.
    """

    asks_questions = False

    def __init__(self, *, path: str, **settings: Any) -> None:
        LOADED.append(path)
        self.picky, self.short, self.slow = path == "picky", path == "short", path == "slow"

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        _at_work()
        _fit(len(items))
        time.sleep(SLOW if self.slow else PAUSE)
        reds = [item.image.getpixel((0, 0))[0] for item in items]  # type: ignore[index]
        return [
            Unscored("too dark") if self.picky and red == 0 else Measurement(red / 2.55, truncated=self.short)
            for red in reds
        ]


class Asking(Brightness):
    """Answers every question by the green channel."""

    asks_questions = True

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        return [self._measure(item) for item in items]

    def _measure(self, item: Item) -> Measurement:
        green = item.image.getpixel((0, 0))[1]  # type: ignore[index]
        answers = tuple(
            Answer(q.key, "yes" if (green >> i) % 2 else "no", green / 255) for i, q in enumerate(item.questions)
        )
        return Measurement(100 * sum(a.answer == "yes" for a in answers) / len(answers), answers)

"""From picture files to scores: what the scores and the evaluation have in common."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from agfsync.errors import ModelError
from agfsync.files.images import BrokenImageError, decode_image
from agfsync.records import Question, Score, digest
from agfsync.scorers import CapReached, Item, Measurement, Scorer, Unscored


@dataclass(frozen=True, slots=True)
class Picture:
    """A candidate's image, or why there is none, with what it is judged by. `key` is that of its score."""

    key: str
    candidate_key: str
    prompt: str
    questions: tuple[Question, ...]
    image: Image.Image | Unscored


@dataclass(frozen=True, slots=True)
class Judged:
    """A picture's score; `truncated` is whether the scorer saw the beginning of the prompt only."""

    score: Score
    truncated: bool


def score_key(source: str, asks_questions: bool, candidate_key: str, questions: Sequence[Question]) -> str:
    """The key of a scorer's word on a candidate; `source` names the scorer with its settings."""
    asked = [question.key for question in questions] if asks_questions else []
    return digest("score", source, candidate_key, asked)


def opened(files: Sequence[bytes]) -> list[Image.Image | Unscored]:
    """The RGB image in each file (PNG, WebP or JPEG), in order, or why there is none."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_opened, files))


def score(scorer: Scorer, name: str, pictures: Sequence[Picture]) -> Iterator[Judged]:
    """One score for each picture, in order, under the scorer's `name` in the recipe; one without an image is unscored.

    Raises:
        ModelError: the scorer gave another number of results than it was given pictures.
        CapReached: the scorer's model may cost no more, after the scores that it gave before.
    """
    whole = [Item(p.prompt, p.questions, p.image) for p in pictures if isinstance(p.image, Image.Image)]
    results, reached = _results(scorer, whole)
    if reached is None and len(results) != len(whole):
        raise ModelError(f"scorer '{name}' gave {len(results)} results for {len(whole)} pictures: mend the scorer")
    words = iter(results)
    for picture in pictures:
        word = next(words, None) if isinstance(picture.image, Image.Image) else picture.image
        if word is None:
            assert reached is not None
            raise reached
        yield Judged(_record(name, picture, word), isinstance(word, Measurement) and word.truncated)


def _results(scorer: Scorer, items: Sequence[Item]) -> tuple[Sequence[Measurement | Unscored], CapReached | None]:
    """What the scorer gave, and what kept it from giving the rest."""
    try:
        return (scorer.score(items) if items else ()), None
    except CapReached as reached:
        return reached.results, reached


def _opened(file: bytes) -> Image.Image | Unscored:
    try:
        return decode_image(file)
    except BrokenImageError as fault:
        return Unscored(str(fault))


def _record(name: str, picture: Picture, word: Measurement | Unscored) -> Score:
    key, candidate = picture.key, picture.candidate_key
    if isinstance(word, Unscored):
        return Score(key, candidate, name, None, word.reason)
    if not (math.isfinite(word.value) and 0 <= word.value <= 100):
        return Score(key, candidate, name, None, f"value {word.value} isn't on 0..100", word.answers)
    return Score(key, candidate, name, float(word.value), None, word.answers)

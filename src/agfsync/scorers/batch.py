"""Scoring of image files, for the stages scores and evaluation."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress

from PIL import Image

from agfsync.errors import ModelError
from agfsync.files.images import BrokenImageError, decode_image
from agfsync.records import Question, Score, digest
from agfsync.scorers import CapReached, Item, Measurement, Scorer, Unscored
from agfsync.scorers.narrow import explain_refusal, is_narrow


@dataclass(frozen=True, slots=True)
class ImageToScore:
    """A candidate's image with its prompt and questions, or the reason for no image. `key` is the key of its score."""

    key: str
    candidate_key: str
    prompt: str
    questions: tuple[Question, ...]
    image: Image.Image | Unscored


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image's score; `truncated` is True if the scorer saw only the beginning of the prompt."""

    score: Score
    truncated: bool


def score_key(source: str, asks_questions: bool, candidate_key: str, questions: Sequence[Question]) -> str:
    """Return the key of a candidate's score; `source` names the scorer with its settings."""
    asked = [question.key for question in questions] if asks_questions else []
    return digest("score", source, candidate_key, asked)


def decode_images(files: Sequence[bytes]) -> list[Image.Image | Unscored]:
    """Decode each file (PNG, WebP or JPEG) to an RGB image, in order; a broken file gives the reason instead."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_decode_or_explain, files))


def score_images(scorer: Scorer, name: str, images: Sequence[ImageToScore]) -> Iterator[ScoredImage]:
    """Yield the score of each image, in order, under the scorer's `name`; one without an image is unscored.

    Raises:
        ModelError: the number of the scorer's results isn't that of the images.
        CapReached: the scorer has reached its spending cap; the scores of the images before are yielded first.
    """
    whole = [Item(p.prompt, p.questions, p.image) for p in images if isinstance(p.image, Image.Image)]
    results, reached = _collect_results(scorer, whole)
    if reached is None and len(results) != len(whole):
        raise ModelError(f"scorer '{name}' gave {len(results)} results for {len(whole)} images: mend the scorer")
    words = iter(results)
    for each in images:
        word = next(words, None) if isinstance(each.image, Image.Image) else each.image
        if word is None:
            assert reached is not None
            raise reached
        score = make_score(each.key, each.candidate_key, name, word)
        yield ScoredImage(score, isinstance(word, Measurement) and word.truncated)


def _collect_results(
    scorer: Scorer, items: Sequence[Item]
) -> tuple[Sequence[Measurement | Unscored], CapReached | None]:
    """Return the scorer's results, and the exception that stopped it before the last item, if any.

    If the scorer refuses the items with a ValueError, the narrow images among them are unscored, and the others are
    scored again without them.
    """
    try:
        return (scorer.score(items) if items else ()), None
    except CapReached as reached:
        return reached.results, reached
    except ValueError as refusal:
        refused = Unscored(explain_refusal((item.image for item in items), refusal))
        read = [not is_narrow(item.image) for item in items]
        results, cap = _collect_results(scorer, list(compress(items, read)))
        words = iter(results)
        found: list[Measurement | Unscored] = []
        for fits in read:
            if (word := next(words, None) if fits else refused) is None:
                break
            found.append(word)
        return found, cap


def _decode_or_explain(file: bytes) -> Image.Image | Unscored:
    try:
        return decode_image(file)
    except BrokenImageError as fault:
        return Unscored(str(fault))


def make_score(key: str, candidate: str, name: str, word: Measurement | Unscored) -> Score:
    """Return a scorer's result as the score `key` of a candidate; a value outside 0..100 counts as unscored."""
    if isinstance(word, Unscored):
        return Score(key, candidate, name, None, word.reason)
    if not (math.isfinite(word.value) and 0 <= word.value <= 100):
        return Score(key, candidate, name, None, f"value {word.value} isn't on 0..100", word.answers)
    return Score(key, candidate, name, float(word.value), None, word.answers)

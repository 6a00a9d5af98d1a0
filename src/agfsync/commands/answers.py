"""`agfsync judge` on questions whose true answers are known: are answers right, is P(yes) calibrated, is yes preferred?

They are those of a table, or of a run whose recipe has a scorer that knows the truth, as the Shapes world's oracle.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from agfsync.chat.meter import Meter
from agfsync.commands.judging import RESAMPLES, Judged, let_judge, load_scorer, read_texts
from agfsync.engine.batch_fitting import BatchFit, release_memory
from agfsync.engine.progress import Progress
from agfsync.errors import FormatError, RecipeError
from agfsync.files.images import BrokenImageError
from agfsync.formats import AnsweredImage, LeftOut, LeftOutTally
from agfsync.formats.pairing import image_key, read_image
from agfsync.formats.sources import read_answers
from agfsync.language.text import oppose_question
from agfsync.pipeline import read_recipe
from agfsync.recipe import ScorerSettings
from agfsync.records import Candidate, Question, derive_seed, digest
from agfsync.scorers import Scorer, TruthTeller
from agfsync.scorers.batch import ImageToScore, decode_images, score_images
from agfsync.stages.context import asks_questions, knows_truth
from agfsync.statistics.calibration import KnownAnswer, OpposedAnswers, describe_answers, describe_yes_bias
from agfsync.store import RECIPE, Run
from agfsync.store.streams import iterate_batches

_AT_ONCE = 64
"""Images that the truth is asked about at a time."""


@dataclass(frozen=True, slots=True)
class QuestionsOnImage:
    """An image's file with its questions, each with its opposite, and their true answers by the questions' keys."""

    key: str
    file: bytes
    prompt: str
    couples: tuple[tuple[Question, Question], ...]
    truths: Mapping[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class AnswerRecord:
    """A judge's answers to questions with known answers, and to their opposites; `reasons` counts why it gave none."""

    name: str
    scorer: Scorer
    reasons: Counter[str] = field(default_factory=Counter)
    answers: list[KnownAnswer] = field(default_factory=list)
    couples: list[OpposedAnswers] = field(default_factory=list)

    def add(self, images: Sequence[QuestionsOnImage]) -> None:
        """Ask the questions on more images, and their opposites."""
        said, reasons = _ask_questions(self.scorer, self.name, images)
        self.reasons += reasons
        for image in images:
            for couple in image.couples if image.key in said and image.truths else ():
                (one, truth), (other, opposite) = ((said[image.key][q.key], image.truths[q.key]) for q in couple)
                self.answers.append(KnownAnswer(image.key, couple[0].element_type, truth, one))
                if truth != opposite:
                    self.couples.append(OpposedAnswers(image.key, one, other))

    def summarise(self) -> dict[str, Any]:
        """Return the figures of all answers, those of each element type under `types`, the bias under `opposite`."""
        seed = derive_seed("answers", self.name)
        figures = describe_answers(self.answers, RESAMPLES, seed)
        return figures | {"opposite": describe_yes_bias(self.couples, RESAMPLES, seed)}


def judge_answers(
    path: Path, scorers: Mapping[str, ScorerSettings], progress: Progress, split: str = "", limit: int | None = None
) -> Judged:
    """Return how right and how calibrated the answers of those `scorers` are that ask questions.

    Args:
        limit: images; default: all.

    Raises:
        FormatError: there are no questions. RecipeError: no scorer answers any, or none knows a run's true answers.
        ModelError: a scorer can't be loaded.
    """
    asking = {name: each for name, each in scorers.items() if asks_questions(each) and not knows_truth(each)}
    if not asking:
        raise RecipeError(f"none of {', '.join(scorers)} answers questions: name one, as vqa=vqa:embedded:vqa")
    read: Callable[[LeftOutTally], Iterator[QuestionsOnImage]] = partial(_read_table, path, split)
    if (path / RECIPE).is_file():
        with Run.open(path) as run:
            own = read_recipe(run).scorers
        teller = next((each for each in own.values() if knows_truth(each)), None)
        if teller is None:
            raise RecipeError(f"{path}: none of its recipe's scorers knows the true answers: judge a table of them")
        read = partial(_read_run, path, load_scorer(teller, None))
    found, total = Judged(path), _count_images(path, split, limit)

    def read_first(tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
        return islice(read(tally), limit)

    for name, settings in asking.items():
        record = let_judge(found, name, settings, _open_record, read_first, (total, "images"), progress)
        found.answers[name] = record.summarise()
        del record
        release_memory()
    if not any(figures["questions"] or found.reasons[name] for name, figures in found.answers.items()):
        raise FormatError(f"{path}: no question can be asked: {'; '.join(found.left_out.lines()) or 'it has none'}")
    return found


def _open_record(name: str, settings: ScorerSettings, meter: Meter | None) -> AnswerRecord:
    return AnswerRecord(name, load_scorer(settings, meter))


def _ask_questions(
    scorer: Scorer, name: str, images: Sequence[QuestionsOnImage]
) -> tuple[dict[str, dict[str, float]], Counter[str]]:
    """Return P(yes) by image and question, and the reasons for images without answers."""
    opened = decode_images([image.file for image in images])
    shown = [
        ImageToScore(image.key, image.key, image.prompt, tuple(q for couple in image.couples for q in couple), decoded)
        for image, decoded in zip(images, opened, strict=True)
        if image.couples
    ]
    scored = BatchFit(max(1, len(shown))).over(shown, lambda some: list(score_images(scorer, name, some)))
    answers = {s.score.key: {a.question_key: a.p_yes for a in s.score.answers} for s in scored if s.score.answers}
    return answers, Counter(each.score.reason for each in scored if each.score.reason is not None)


def _count_images(path: Path, split: str, limit: int | None) -> int:
    if (path / RECIPE).is_file():
        with Run.open(path) as run:
            there = sum(1 for _ in run.rows("candidates", ["key"]))
    else:
        there = sum(isinstance(found, AnsweredImage) for found in read_answers(path, split))
    return there if limit is None else min(there, limit)


def _read_table(path: Path, split: str, tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
    """Yield the images of a table; the opposite of a question is found by a rule where the table has none."""
    for found in read_answers(path, split):
        if isinstance(found, LeftOut):
            tally.add(found)
            continue
        try:
            file = read_image(found.image)
        except BrokenImageError as failure:
            tally.add(LeftOut(str(failure), found.where))
        else:
            yield _make_questions(image_key("", file), file, found)


def _make_questions(key: str, file: bytes, found: AnsweredImage) -> QuestionsOnImage:
    couples: list[tuple[Question, Question]] = []
    truths: dict[str, bool] = {}
    for each in found.questions:
        kind: Any = each.element_type
        question = Question(digest("question", key, each.text), key, each.text, each.answer, "", kind)
        couples.append(_oppose(question, each.opposite or oppose_question(each.text)))
        truths |= {couples[-1][0].key: each.answer == "yes", couples[-1][1].key: each.answer == "no"}
    return QuestionsOnImage(key, file, "", tuple(couples), truths)


def _read_run(path: Path, teller: TruthTeller, tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
    """Yield a run's candidates; `teller` has the words for the opposite of a question, and knows the answers."""

    def read() -> Iterator[QuestionsOnImage]:
        with Run.open(path) as run:
            texts, asked = read_texts(run)
            for image in run.read("candidates", Candidate):
                couples = tuple(_oppose(q, teller.oppose(q.text)) for q in asked.get(image.caption_key, ()))
                yield QuestionsOnImage(image.key, image.image, texts[image.caption_key], couples)

    for some in iterate_batches(read(), _AT_ONCE):
        truths, _ = _ask_questions(teller, "truth", some)
        yield from (replace(e, truths={q: p > 0.5 for q, p in truths.get(e.key, {}).items()}) for e in some)


def _oppose(question: Question, text: str) -> tuple[Question, Question]:
    return question, replace(question, key=f"{question.key} opposite", text=text)

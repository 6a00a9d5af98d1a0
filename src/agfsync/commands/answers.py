"""`agfsync judge` on questions with known answers: accuracy, calibration of P(yes), and bias towards yes.

The questions come from a table, or from a run whose recipe has a scorer that knows the truth, such as the Shapes
world's oracle.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from agfsync.chat.meter import Meter
from agfsync.commands.judging import RESAMPLES, Judged, load_scorer, read_texts, run_judge
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
"""images for which the true answers are read at a time"""


@dataclass(frozen=True, slots=True)
class QuestionsOnImage:
    """An image with its questions, each with its opposite, and the true answers by the questions' keys."""

    key: str
    file: bytes
    prompt: str
    couples: tuple[tuple[Question, Question], ...]
    truths: Mapping[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class AnswerRecord:
    """A judge's answers to questions with known answers, and to their opposites; `reasons` counts missing answers."""

    name: str
    scorer: Scorer
    reasons: Counter[str] = field(default_factory=Counter)
    answers: list[KnownAnswer] = field(default_factory=list)
    couples: list[OpposedAnswers] = field(default_factory=list)

    def add(self, images: Sequence[QuestionsOnImage]) -> None:
        """Let the judge answer the questions on more images, and their opposites."""
        p_yes, reasons = _ask_questions(self.scorer, self.name, images)
        self.reasons += reasons
        for image in images:
            for couple in image.couples if image.key in p_yes and image.truths else ():
                p_first, p_opposite = (p_yes[image.key][question.key] for question in couple)
                first_truth, opposite_truth = (image.truths[question.key] for question in couple)
                self.answers.append(KnownAnswer(image.key, couple[0].element_type, first_truth, p_first))
                if first_truth != opposite_truth:
                    self.couples.append(OpposedAnswers(image.key, p_first, p_opposite))

    def summarise(self) -> dict[str, Any]:
        """Return the figures of all answers, with those by element type under `types` and the bias under `opposite`."""
        seed = derive_seed("answers", self.name)
        figures = describe_answers(self.answers, RESAMPLES, seed)
        return figures | {"opposite": describe_yes_bias(self.couples, RESAMPLES, seed)}


def judge_answers(
    path: Path, scorers: Mapping[str, ScorerSettings], progress: Progress, split: str = "", limit: int | None = None
) -> Judged:
    """Return the accuracy and calibration of the answers of those `scorers` that answer questions.

    Args:
        limit: the number of images; default: all.

    Raises:
        FormatError: there are no questions. RecipeError: no scorer answers any, or none knows a run's true answers.
        ModelError: a scorer can't be loaded.
    """
    judges = {name: each for name, each in scorers.items() if asks_questions(each) and not knows_truth(each)}
    if not judges:
        raise RecipeError(f"none of {', '.join(scorers)} answers questions: name one, as vqa=vqa:embedded:vqa")
    read: Callable[[LeftOutTally], Iterator[QuestionsOnImage]] = partial(_read_table, path, split)
    if (path / RECIPE).is_file():
        with Run.open(path) as run:
            scorers_of_run = read_recipe(run).scorers
        oracle = next((each for each in scorers_of_run.values() if knows_truth(each)), None)
        if oracle is None:
            raise RecipeError(f"{path}: none of its recipe's scorers knows the true answers: judge a table of them")
        read = partial(_read_run, path, load_scorer(oracle, None))
    judged, total = Judged(path), _count_images(path, split, limit)

    def read_first(tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
        return islice(read(tally), limit)

    for name, settings in judges.items():
        record = run_judge(judged, name, settings, _open_record, read_first, (total, "images"), progress)
        judged.answers[name] = record.summarise()
        del record
        release_memory()
    if not any(figures["questions"] or judged.reasons[name] for name, figures in judged.answers.items()):
        raise FormatError(f"{path}: no question can be asked: {'; '.join(judged.left_out.lines()) or 'it has none'}")
    return judged


def _open_record(name: str, settings: ScorerSettings, meter: Meter | None) -> AnswerRecord:
    return AnswerRecord(name, load_scorer(settings, meter))


def _ask_questions(
    scorer: Scorer, name: str, images: Sequence[QuestionsOnImage]
) -> tuple[dict[str, dict[str, float]], Counter[str]]:
    """Return P(yes) by image and question, and the counted reasons for images without answers."""
    images_decoded = decode_images([image.file for image in images])
    items = [
        ImageToScore(image.key, image.key, image.prompt, tuple(q for couple in image.couples for q in couple), decoded)
        for image, decoded in zip(images, images_decoded, strict=True)
        if image.couples
    ]
    scored = BatchFit(max(1, len(items))).over(items, lambda some: list(score_images(scorer, name, some)))
    answers = {s.score.key: {a.question_key: a.p_yes for a in s.score.answers} for s in scored if s.score.answers}
    return answers, Counter(each.score.reason for each in scored if each.score.reason is not None)


def _count_images(path: Path, split: str, limit: int | None) -> int:
    if (path / RECIPE).is_file():
        with Run.open(path) as run:
            count = sum(1 for _ in run.rows("candidates", ["key"]))
    else:
        count = sum(isinstance(found, AnsweredImage) for found in read_answers(path, split))
    return count if limit is None else min(count, limit)


def _read_table(path: Path, split: str, tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
    """Yield the images of a table; a rule forms the opposite of a question if the table has none."""
    for item in read_answers(path, split):
        if isinstance(item, LeftOut):
            tally.add(item)
            continue
        try:
            file = read_image(item.image)
        except BrokenImageError as failure:
            tally.add(LeftOut(str(failure), item.where))
        else:
            yield _make_questions(image_key("", file), file, item)


def _make_questions(key: str, file: bytes, answered: AnsweredImage) -> QuestionsOnImage:
    couples: list[tuple[Question, Question]] = []
    truths: dict[str, bool] = {}
    for given in answered.questions:
        kind: Any = given.element_type
        question = Question(digest("question", key, given.text), key, given.text, given.answer, "", kind)
        couples.append(_oppose(question, given.opposite or oppose_question(given.text)))
        truths |= {couples[-1][0].key: given.answer == "yes", couples[-1][1].key: given.answer == "no"}
    return QuestionsOnImage(key, file, "", tuple(couples), truths)


def _read_run(path: Path, oracle: TruthTeller, tally: LeftOutTally) -> Iterator[QuestionsOnImage]:
    """Yield a run's candidates; `oracle` phrases the opposite of a question, and knows the answers."""

    def read() -> Iterator[QuestionsOnImage]:
        with Run.open(path) as run:
            texts, questions = read_texts(run)
            for image in run.read("candidates", Candidate):
                couples = tuple(_oppose(q, oracle.oppose(q.text)) for q in questions.get(image.caption_key, ()))
                yield QuestionsOnImage(image.key, image.image, texts[image.caption_key], couples)

    for batch in iterate_batches(read(), _AT_ONCE):
        truths, _ = _ask_questions(oracle, "truth", batch)
        yield from (replace(e, truths={q: p > 0.5 for q, p in truths.get(e.key, {}).items()}) for e in batch)


def _oppose(question: Question, text: str) -> tuple[Question, Question]:
    return question, replace(question, key=f"{question.key} opposite", text=text)

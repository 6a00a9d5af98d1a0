"""Stage 2: yes/no questions on each caption that pass the checks.

If the captions' file has questions on a caption, they replace the writer's. Captions of a pair set need no questions,
since their images aren't scored.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from textwrap import shorten
from typing import Any

from agfsync.chat.threads import map_in_threads
from agfsync.engine.jobs import Outcome, Sifted, Skip, Undone, Unit
from agfsync.engine.processing import check_budget, process_units, report_skipped
from agfsync.errors import BudgetError, NoReplyError
from agfsync.formats import SourceQuestion
from agfsync.formats.sources import SourceCaptions
from agfsync.language import QuestionDraft, QuestionWriter, Verifier
from agfsync.recipe import Recipe
from agfsync.records import Caption, Question, derive_seed, digest
from agfsync.stages import VERSIONS
from agfsync.stages.checking import sift_questions
from agfsync.stages.context import Context
from agfsync.stages.writing import WriterSession, open_writer
from agfsync.stages.written import make_question
from agfsync.store.streams import Reiterable, Stream

_STAGE = "questions"
_BATCH = 16
"""captions at a time, or 4 times the writer's concurrency, so that few threads wait for the last of a batch"""


_SHOWN_CHARACTERS = 80
"""characters of a caption in a message"""


@dataclass(frozen=True, slots=True)
class CaptionToAsk:
    """A caption, the questions `given` in its file, and the counted reasons why others can't be used.

    If no question is `given`, the writer writes them.
    """

    caption: Caption
    given: Sequence[SourceQuestion]
    left_out: Mapping[str, int]


def run(context: Context) -> Mapping[str, Any]:
    """Request questions on each caption `questions.rounds` times; captions with too few valid ones are skipped.

    Raises:
        BudgetError: more captions are skipped than `failure_budget` allows.
    """
    recipe, run_ = context.recipe, context.run
    with open_writer(context, _STAGE, recipe.questions) as session:
        units = _list_units(context, session.writer)
        common = {"schema": Question.schema, "progress": context.progress, "budget": recipe.failure_budget}
        batch = max(_BATCH, 4 * session.writer.concurrency)
        process_units(run_, _STAGE, units, partial(_ask_all, session, recipe), batch=batch, **common)
    _skip_short_of_questions(context, units, session.account.meter.spoilers)
    run_.select(_STAGE, (unit.key for unit in units))
    return {**_collect_notes(context), **session.account.to_notes()}


def _list_units(context: Context, writer: QuestionWriter) -> Stream[Unit[CaptionToAsk]]:
    """Return a unit for each caption that needs questions: with a pair set, only held-out ones."""
    recipe = context.recipe
    prompts = SourceCaptions(recipe.captions.source, split=recipe.captions.split) if recipe.captions.source else None
    splits = {"held-out"} if recipe.pairs.source else {"train", "held-out"}

    def units() -> Iterator[Unit[CaptionToAsk]]:
        for caption in context.run.read("captions", Caption):
            if caption.split in splits:
                task = CaptionToAsk(caption, *(prompts.questions_on(caption.text) if prompts else ((), {})))
                yield Unit(_name_unit(writer, recipe, task), task)

    return Stream(sum(row["split"] in splits for row in context.run.rows("captions", ["split"])), units)


def _name_unit(writer: QuestionWriter, recipe: Recipe, task: CaptionToAsk) -> str:
    """Return the key of a caption's questions."""
    if task.given:
        # Choices and labels were added later: without them, the keys stay what they were.
        given = [{k: v for k, v in asdict(each).items() if v or k not in ("choices", "label")} for each in task.given]
        return digest(_STAGE, VERSIONS[_STAGE], "found", task.caption.key, given, task.left_out)
    settings = recipe.questions
    shaping: list[Any] = [settings.rounds, settings.verify, recipe.seed]
    if (settings.similarity, settings.maximum) != (1.0, None):
        shaping += [settings.similarity, settings.maximum]
    return digest(_STAGE, VERSIONS[_STAGE], writer.identity, *shaping, task.caption.key)


def _ask_all(session: WriterSession, recipe: Recipe, tasks: Sequence[CaptionToAsk]) -> Iterator[Outcome | Undone]:
    """Yield an outcome for each of `tasks`; once a cap is reached, the captions that are not begun stay undone."""
    reached: list[Undone] = []

    def ask(task: CaptionToAsk) -> Outcome | Undone:
        if reached:
            return reached[0]
        outcome = _make_questions(session.writer, recipe, task)
        if isinstance(outcome, Undone):
            reached.append(outcome)
        return outcome

    for outcome in map_in_threads(ask, tasks, session.writer.concurrency):
        session.account.note()
        yield outcome


def _make_questions(writer: QuestionWriter, recipe: Recipe, task: CaptionToAsk) -> Outcome | Undone:
    """Return a caption's questions, a skip, or `Undone` if a cap is reached. May run in any thread.

    A caption takes several requests, so it can reach a cap when later captions are already complete.
    """
    if task.given:
        return _make_given_questions(task)
    try:
        return _write_questions(writer, recipe, task.caption)
    except NoReplyError as failure:
        return Skip(str(failure), _quote_caption(task.caption))
    except BudgetError as reached:
        return Undone(reached)


def _make_given_questions(task: CaptionToAsk) -> Sifted:
    """Return the file's questions unchanged: people have checked them."""
    return Sifted([make_question(task.caption.key, question) for question in task.given], task.left_out)


def _write_questions(writer: QuestionWriter, recipe: Recipe, caption: Caption) -> Sifted:
    """Return the writer's questions that pass the checks.

    Raises:
        NoReplyError: no round got a reply, or the verification didn't.
    """
    drafts, without_reply = _collect_drafts(writer, recipe, caption)
    questions, dropped = sift_questions(caption, drafts, recipe.questions.similarity)
    if recipe.questions.verify and questions:
        confirmed = _confirm_questions(writer, recipe, caption, questions)
        dropped["not confirmed on second reading"] = len(questions) - len(confirmed)
        questions = confirmed
    most = recipe.questions.maximum
    if most is not None:
        dropped["more than questions.maximum"] = max(0, len(questions) - most)
    dropped["round without a reply"] = without_reply
    return Sifted(questions[:most], +dropped)


def _collect_drafts(writer: QuestionWriter, recipe: Recipe, caption: Caption) -> tuple[list[QuestionDraft], int]:
    """Return the drafts of all rounds, and the number of rounds without a reply.

    Raises:
        NoReplyError: no round got a reply.
    """
    drafts: list[QuestionDraft] = []
    failures: list[NoReplyError] = []
    for index in range(recipe.questions.rounds):
        try:
            drafts += writer.questions(caption.text, derive_seed(recipe.seed, _STAGE, caption.key, index))
        except NoReplyError as failure:
            failures.append(failure)
    if len(failures) == recipe.questions.rounds:
        raise failures[-1]
    return drafts, len(failures)


def _confirm_questions(
    writer: QuestionWriter, recipe: Recipe, caption: Caption, questions: Sequence[Question]
) -> list[Question]:
    """Return the `questions` that the writer, given only the caption, answers as expected."""
    assert isinstance(writer, Verifier)
    seed = derive_seed(recipe.seed, "verify", caption.key)
    answers = writer.verify(caption.text, [question.text for question in questions], seed)
    return [q for q, is_yes in zip(questions, answers, strict=True) if is_yes == (q.answer == "yes")]


def _skip_short_of_questions(context: Context, units: Reiterable[Unit[CaptionToAsk]], spoilers: Sequence[str]) -> None:
    """Skip captions with fewer questions than `questions.minimum`.

    Their questions are kept, so that a change of `questions.minimum` needs no new requests.

    Args:
        spoilers: remarks about the writer's server that may explain the lack of questions.
    """
    minimum = context.recipe.questions.minimum
    skipped = {entry.key for entry in context.run.list_skipped(_STAGE)}
    done = Stream(len(units), lambda: (unit for unit in units if unit.key not in skipped))
    for unit, (key, rows) in zip(
        done, context.run.rows_by_unit(_STAGE, ["key"], (unit.key for unit in done)), strict=True
    ):
        if len(rows) < minimum:
            reason = f"fewer valid questions than questions.minimum ({minimum})"
            context.run.skip(_STAGE, key, reason, _quote_caption(unit.payload.caption))
    try:
        check_budget(_STAGE, context.run.list_skipped(_STAGE), len(units), context.recipe.failure_budget)
    except BudgetError as failure:
        raise BudgetError("; ".join([str(failure), *spoilers])) from None
    report_skipped(context.progress, _STAGE, context.run.list_skipped(_STAGE), len(units))


def _quote_caption(caption: Caption) -> str:
    return f"'{shorten(caption.text, _SHOWN_CHARACTERS, placeholder=' ...')}'"


def _collect_notes(context: Context) -> dict[str, Any]:
    types = Counter(row["element_type"] for row in context.run.rows(_STAGE, ["element_type"]))
    captions = context.run.count(_STAGE)
    return {
        "questions": types.total(),
        "per_caption": types.total() / captions if captions else 0.0,
        "types": dict(types.most_common()),
        "dropped": dict(context.run.count_dropped(_STAGE)),
        "skipped": len(context.run.list_skipped(_STAGE)),
    }

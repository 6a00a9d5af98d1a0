"""Stage 2: yes/no questions on each caption, only those that stand up to checking."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

from agfsync.config import Recipe
from agfsync.engine import Failure, Outcome, Sifted, Unit, check_budget, process
from agfsync.language import NoReplyError, QuestionDraft, QuestionWriter, Verifier
from agfsync.language.side_by_side import side_by_side
from agfsync.language.text import normalised
from agfsync.records import Caption, ElementType, Question, digest, seed_of
from agfsync.stages import VERSIONS, Context
from agfsync.stages.writing import Desk, at_work

STAGE = "questions"
BATCH = 16
"""captions at a time, or four times as many as the writer takes, so that few threads wait for the last of a batch"""
TYPES = get_args(ElementType)
FILLERS = frozenset(
    normalised("a, an, and, are, at, by, for, from, in, is, it, its, of, on, or, the, to, with").split()
)
"""words that nearly every caption has, so that they place no element in it"""


def run(context: Context) -> Mapping[str, Any]:
    """Ask the writer `questions.rounds` times for each caption; one that keeps too few questions is quarantined.

    Raises:
        BudgetError: that befell more captions than `failure_budget` allows.
    """
    recipe, run_ = context.recipe, context.run
    with at_work(context, STAGE, recipe.questions) as desk:
        source = _source(recipe, desk.writer)
        units = [Unit(digest(*source, caption.key), caption) for caption in run_.read("captions", Caption)]
        common = {"schema": Question.schema, "progress": context.progress, "budget": recipe.failure_budget}
        batch = max(BATCH, 4 * desk.writer.concurrency)
        process(run_, STAGE, units, partial(_work, desk, recipe), batch=batch, **common)
    _quarantine(context, units)
    run_.select(STAGE, [unit.key for unit in units])
    return {**_notes(context), **desk.cost()}


def _source(recipe: Recipe, writer: QuestionWriter) -> tuple[Any, ...]:
    """What names the questions that `writer` asks here, on any caption."""
    # Units of before there was a second pass keep their names.
    passes = ("verify",) if recipe.questions.verify else ()
    return (STAGE, VERSIONS[STAGE], writer.identity, recipe.questions.rounds, recipe.seed, *passes)


def _work(desk: Desk, recipe: Recipe, captions: Sequence[Caption]) -> Iterator[Outcome]:
    for outcome in side_by_side(partial(_ask, desk.writer, recipe), captions, desk.writer.concurrency):
        desk.note()
        yield outcome


def _ask(writer: QuestionWriter, recipe: Recipe, caption: Caption) -> Outcome:
    """The questions that stand up to checking, or why there are none. May run in a thread of its own."""
    drafts: list[QuestionDraft] = []
    lost: list[str] = []
    for index in range(recipe.questions.rounds):
        try:
            drafts += writer.questions(caption.text, seed_of(recipe.seed, STAGE, caption.key, index))
        except NoReplyError as failure:
            lost.append(str(failure))
    if len(lost) == recipe.questions.rounds:
        return Failure(lost[-1])
    sifted = sift(caption, drafts)
    sifted = Sifted(sifted.records, {**sifted.dropped, "round without a reply": len(lost)}) if lost else sifted
    return _verified(writer, recipe, caption, sifted) if recipe.questions.verify else sifted


def _verified(writer: QuestionWriter, recipe: Recipe, caption: Caption, sifted: Sifted) -> Outcome:
    """Those questions that the writer, asked again, answers with yes from the caption alone."""
    assert isinstance(writer, Verifier)
    questions = [record for record in sifted.records if isinstance(record, Question)]
    if not questions:
        return sifted
    try:
        right = writer.verify(caption.text, [q.text for q in questions], seed_of(recipe.seed, "verify", caption.key))
    except NoReplyError as failure:
        return Failure(str(failure))
    kept = [question for question, confirmed in zip(questions, right, strict=True) if confirmed]
    wrong = len(questions) - len(kept)
    return Sifted(kept, {**sifted.dropped, **({"not confirmed on second reading": wrong} if wrong else {})})


def sift(caption: Caption, drafts: Sequence[QuestionDraft]) -> Sifted:
    """Those of `drafts` that are valid questions on `caption`, each once, and why the others aren't, counted."""
    kept: dict[str, Question] = {}
    dropped: Counter[str] = Counter()
    for draft in drafts:
        plain = normalised(draft.text)
        reason = "repeated" if plain in kept else fault(draft, caption)
        if reason is None:
            kept[plain] = _question(caption, draft)
        else:
            dropped[reason] += 1
    return Sifted(list(kept.values()), dropped)


def fault(draft: QuestionDraft, caption: Caption) -> str | None:
    """Why `draft` is no valid question on `caption`, or None when it is one."""
    if not draft.valid:
        return "called invalid by its writer"
    if not normalised(draft.text):
        return "empty"
    if normalised(draft.answer) != "yes":
        return "answer isn't yes"
    if normalised(draft.element_type) not in TYPES:
        return "unknown element type"
    if not _mentions(caption.text, draft.element):
        return "element isn't in the caption"
    return None


def _mentions(caption: str, element: str) -> bool:
    """Whether some word of `element` that says something is in `caption`.

    Some, not all, and at any place of a word: a writer may bend words ("cats" -> "cat") or add one.
    """
    words = normalised(element).split()
    telling = [word for word in words if word not in FILLERS]
    return any(word in normalised(caption) for word in telling or words)


def _question(caption: Caption, draft: QuestionDraft) -> Question:
    text = " ".join(draft.text.split())
    kind: Any = normalised(draft.element_type)
    return Question(digest("question", caption.key, text), caption.key, text, "yes", draft.element.strip(), kind)


def _quarantine(context: Context, units: Sequence[Unit[Caption]]) -> None:
    """Questions are kept however few, so that another `questions.minimum` asks no writer again."""
    minimum = context.recipe.questions.minimum
    failed = context.run.failures(STAGE)
    made = context.run.grouped(STAGE, ["key"], [unit.key for unit in units if unit.key not in failed])
    for key, rows in made:
        if len(rows) < minimum:
            context.run.quarantine(STAGE, key, f"fewer valid questions than questions.minimum ({minimum})")
    check_budget(context.run, STAGE, len(units), context.recipe.failure_budget)


def _notes(context: Context) -> dict[str, Any]:
    types = Counter(row["element_type"] for row in context.run.rows(STAGE, ["element_type"]))
    captions = len(context.run.selected(STAGE))
    return {
        "questions": types.total(),
        "per_caption": types.total() / captions if captions else 0.0,
        "types": dict(types.most_common()),
        "dropped": dict(context.run.dropped(STAGE)),
        "quarantined": len(context.run.failures(STAGE)),
    }

"""Stage 2: yes/no questions on each caption, only those that stand up to checking.

A file of prompts may bring its own. Captions whose pairs are given need none: nothing is scored for them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from agfsync import catalog
from agfsync.config import Recipe
from agfsync.engine import Outcome, Sifted, Unit, check_budget, process
from agfsync.formats import Asked
from agfsync.language import QuestionDraft, QuestionWriter
from agfsync.language.text import normalised
from agfsync.records import Caption, ElementType, Question, digest, seed_of
from agfsync.sources import Prompts
from agfsync.stages import VERSIONS, Context

STAGE = "questions"
BATCH = 16
TYPES = get_args(ElementType)

Work = Callable[[Sequence[Caption]], list[Outcome]]


def run(context: Context) -> Mapping[str, Any]:
    """Ask the writer `questions.rounds` times for each caption; one that keeps too few questions is quarantined.

    Raises:
        BudgetError: that befell more captions than `failure_budget` allows.
    """
    recipe, run_ = context.recipe, context.run
    prompts = Prompts(recipe.captions.source) if recipe.captions.source else None
    asked = [c for c in run_.read("captions", Caption) if c.split == "held-out" or not recipe.pairs.source]
    work, units = _found(prompts, asked) if prompts and prompts.asks else _written(recipe, asked)
    common = {"schema": Question.schema, "progress": context.progress, "budget": recipe.failure_budget}
    process(run_, STAGE, units, work, batch=BATCH, **common)
    _quarantine(context, units)
    run_.select(STAGE, [unit.key for unit in units])
    return _notes(context)


def _written(recipe: Recipe, captions: Sequence[Caption]) -> tuple[Work, list[Unit[Caption]]]:
    """The writer's questions, asked for `questions.rounds` times."""
    writer: QuestionWriter = catalog.find("questions", recipe.questions.writer)()

    def work(some: Sequence[Caption]) -> list[Outcome]:
        return [sift(c, _drafts(writer, c, recipe.questions.rounds, recipe.seed)) for c in some]

    source = (STAGE, VERSIONS[STAGE], writer.identity, recipe.questions.rounds, recipe.seed)
    return work, [Unit(digest(*source, caption.key), caption) for caption in captions]


def _found(prompts: Prompts, captions: Sequence[Caption]) -> tuple[Work, list[Unit[Caption]]]:
    """The questions that the captions' file has: people have checked them, so they are taken as they are."""

    def work(some: Sequence[Caption]) -> list[Outcome]:
        return [_sifted(caption, *prompts.asked(caption.text)) for caption in some]

    def key(caption: Caption) -> str:
        questions, left_out = prompts.asked(caption.text)
        return digest(STAGE, VERSIONS[STAGE], "found", caption.key, [asdict(each) for each in questions], left_out)

    return work, [Unit(key(caption), caption) for caption in captions]


def _sifted(caption: Caption, found: Sequence[Asked], left_out: Mapping[str, int]) -> Sifted:
    questions = [
        Question(digest("question", caption.key, a.text), caption.key, a.text, a.answer, a.element, a.element_type)
        for a in found
    ]
    return Sifted(questions, left_out)


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
    # A writer may bend a word ("cats" -> "cat"): some of the element's words need to be in the caption, not all.
    if not any(word in normalised(caption.text) for word in normalised(draft.element).split()):
        return "element isn't in the caption"
    return None


def _drafts(writer: QuestionWriter, caption: Caption, rounds: int, seed: int) -> list[QuestionDraft]:
    seeds = [seed_of(seed, STAGE, caption.key, index) for index in range(rounds)]
    return [draft for each in seeds for draft in writer.questions(caption.text, each)]


def _question(caption: Caption, draft: QuestionDraft) -> Question:
    text = " ".join(draft.text.split())
    kind: Any = normalised(draft.element_type)
    return Question(digest("question", caption.key, text), caption.key, text, "yes", draft.element.strip(), kind)


def _quarantine(context: Context, units: Sequence[Unit[Caption]]) -> None:
    """Questions are kept however few, so that another `questions.minimum` asks no writer again."""
    minimum = context.recipe.questions.minimum
    made = context.run.grouped(STAGE, ["key"], [unit.key for unit in units])
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

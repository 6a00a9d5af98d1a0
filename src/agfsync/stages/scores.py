"""Stage 4: every scorer's word on every candidate (Eq. 2 to 4), unweighted. One scorer is in memory at a time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from agfsync import catalog
from agfsync.config import ScorerSettings
from agfsync.engine import Outcome, Unit, over_budget, process
from agfsync.records import Candidate, Caption, Question, Score, digest
from agfsync.scorers import Scorer
from agfsync.scorers.batch import Picture, release, score, score_key
from agfsync.stages import VERSIONS, Context, questions_by_caption, scorer_source

STAGE = "scores"


@dataclass(frozen=True, slots=True)
class ToScore:
    """A candidate, without its image, which is read when it is needed: `unit` is the candidates' unit that holds it."""

    key: str
    unit: str
    prompt: str
    questions: tuple[Question, ...]


def run(context: Context) -> Mapping[str, Any]:
    """Score what isn't scored yet.

    Raises:
        ModelError: a scorer can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    candidates = _candidates(context)
    selected: list[str] = []
    for name, settings in context.recipe.scores.scorers.items():
        selected += _score(context, name, settings, candidates)
        release()
    context.run.select(STAGE, selected)
    notes = _notes(context)
    _check(context, notes)
    return notes


def _candidates(context: Context) -> list[ToScore]:
    prompts = {caption.key: caption.text for caption in context.run.read("captions", Caption)}
    questions = questions_by_caption(context)
    return [
        ToScore(row["key"], unit, prompts[row["caption_key"]], questions[row["caption_key"]])
        for unit, rows in context.run.grouped("candidates", ["key", "caption_key"])
        for row in rows
    ]


def _score(context: Context, name: str, settings: ScorerSettings, candidates: Sequence[ToScore]) -> list[str]:
    """Let one scorer score what it hasn't; the keys of its units."""
    source = digest(STAGE, VERSIONS[STAGE], scorer_source(name, settings))
    # A scorer whose class doesn't say counts as asking: at worst, other questions make it score anew.
    asks = getattr(catalog.find("scorers", settings.type), "asks_questions", True)
    units = [Unit(key := score_key(source, asks, c.key, c.questions), (key, c)) for c in candidates]

    @cache
    def scorer() -> Scorer:
        """Loaded when there is something to score."""
        context.progress.say(f"{STAGE}: loading {name}")
        made: Scorer = catalog.build("scorers", settings.model_dump())
        return made

    def work(batch: Sequence[tuple[str, ToScore]]) -> list[Outcome]:
        return [[each] for each in score(scorer(), name, _pictures(context, batch))]

    process(
        context.run,
        STAGE,
        units,
        work,
        batch=context.recipe.scores.batch,
        schema=Score.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="candidates",
        title=f"{STAGE}: {name}",
    )
    return [unit.key for unit in units]


def _pictures(context: Context, batch: Sequence[tuple[str, ToScore]]) -> list[Picture]:
    holders = list(dict.fromkeys(each.unit for _, each in batch))
    images = {c.key: c.image for c in context.run.read("candidates", Candidate, holders)}
    return [Picture(key, each.key, each.prompt, each.questions, images[each.key]) for key, each in batch]


def _notes(context: Context) -> dict[str, Any]:
    """For each scorer: how many it scored, their mean, and the reasons for the others."""
    values: dict[str, list[float]] = {name: [] for name in context.recipe.scores.scorers}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in values}
    for row in context.run.rows(STAGE, ["scorer", "value", "reason"]):
        if row["value"] is None:
            reasons[row["scorer"]][row["reason"]] += 1
        else:
            values[row["scorer"]].append(row["value"])
    return {
        name: {"scored": len(all_), "mean": fmean(all_) if all_ else None, "unscored": dict(reasons[name])}
        for name, all_ in values.items()
    }


def _check(context: Context, notes: Mapping[str, Any]) -> None:
    for name, note in notes.items():
        unscored: Counter[str] = Counter(note["unscored"])
        total, budget = note["scored"] + unscored.total(), context.recipe.failure_budget
        if unscored.total() > budget * total:
            raise over_budget(f"{STAGE}: {name}", unscored, total, budget, "candidates")

"""What the scores and the evaluation have in common: every judge's word on every picture. No stage of its own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from agfsync import catalog
from agfsync.config import ScorerSettings
from agfsync.engine import Outcome, Sifted, Unit, over_budget, process
from agfsync.records import Candidate, Question, Score, digest
from agfsync.scorers import Scorer
from agfsync.scorers.batch import Judged, Picture, release, score, score_key
from agfsync.stages import VERSIONS, Context, scorer_source

Judges = Mapping[str, ScorerSettings]


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the pictures of `stage` lie, and where what is said of them goes."""

    stage: str
    pictures: str
    scores: str


@dataclass(frozen=True, slots=True)
class ToJudge:
    """A picture, without its image, which is read when it is needed: `unit` is the unit of its table that holds it."""

    key: str
    unit: str
    prompt: str
    questions: tuple[Question, ...]


def judge(context: Context, tables: Tables, judges: Judges, pictures: Sequence[ToJudge]) -> dict[str, Any]:
    """Let every judge score what it hasn't of `pictures`, one judge in memory at a time.

    Returns, for each judge: how many it `scored`, their `mean`, why the others are `unscored`, counted, and on how many
    it saw the beginning of the prompt only (`truncated`).

    Raises:
        ModelError: a judge can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    selected: list[str] = []
    for name, settings in judges.items():
        selected += _judge_by(context, tables, name, settings, pictures)
        release()
    context.run.select(tables.scores, selected)
    notes = _notes(context, tables, judges)
    for name, note in notes.items():
        unscored, budget = Counter[str](note["unscored"]), context.recipe.failure_budget
        if unscored.total() > budget * len(pictures):
            raise over_budget(f"{tables.stage}: {name}", unscored, len(pictures), budget, "pictures")
    return notes


def _judge_by(
    context: Context, tables: Tables, name: str, settings: ScorerSettings, pictures: Sequence[ToJudge]
) -> list[str]:
    """One judge's scores; the keys of its units."""
    source = digest(tables.scores, VERSIONS[tables.stage], scorer_source(name, settings))
    # A scorer whose class doesn't say counts as asking: at worst, other questions make it score anew.
    asks = getattr(catalog.find("scorers", settings.type), "asks_questions", True)
    units = [Unit(key := score_key(source, asks, p.key, p.questions), (key, p)) for p in pictures]

    @cache
    def scorer() -> Scorer:
        """Loaded when there is something to judge."""
        context.progress.say(f"{tables.stage}: loading {name}")
        made: Scorer = catalog.build("scorers", settings.model_dump())
        return made

    def work(batch: Sequence[tuple[str, ToJudge]]) -> list[Outcome]:
        return [_outcome(each) for each in score(scorer(), name, _opened(context, tables, batch))]

    process(
        context.run,
        tables.scores,
        units,
        work,
        batch=context.recipe.scores.batch,
        schema=Score.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="pictures",
        title=f"{tables.stage}: {name}",
    )
    return [unit.key for unit in units]


def _opened(context: Context, tables: Tables, batch: Sequence[tuple[str, ToJudge]]) -> list[Picture]:
    holders = list(dict.fromkeys(each.unit for _, each in batch))
    images = {c.key: c.image for c in context.run.read(tables.pictures, Candidate, holders)}
    return [Picture(key, each.key, each.prompt, each.questions, images[each.key]) for key, each in batch]


def _outcome(judged: Judged) -> Outcome:
    """The score; what of the prompt was left out is counted with it, and so known after a resume too."""
    return Sifted([judged.score], {_truncated(judged.score.scorer): 1} if judged.truncated else {})


def _truncated(judge_: str) -> str:
    return f"{judge_} saw the beginning of the prompt only"


def _notes(context: Context, tables: Tables, judges: Judges) -> dict[str, Any]:
    values: dict[str, list[float]] = {name: [] for name in judges}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in judges}
    for row in context.run.rows(tables.scores, ["scorer", "value", "reason"]):
        if row["value"] is None:
            reasons[row["scorer"]][row["reason"]] += 1
        else:
            values[row["scorer"]].append(row["value"])
    left_out = context.run.dropped(tables.scores)
    return {
        name: {
            "scored": len(all_),
            "mean": fmean(all_) if all_ else None,
            "unscored": dict(reasons[name]),
            "truncated": left_out[_truncated(name)],
        }
        for name, all_ in values.items()
    }

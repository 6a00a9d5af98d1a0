"""Judging of images by every scorer, shared by the stages scores and evaluation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import repeat
from typing import Any

from PIL import Image

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.engine.jobs import SERVER, BatchFunction, JobContext, Outcome, Sifted, Unit
from agfsync.engine.processing import check_budget, report_skipped
from agfsync.engine.running import run_job
from agfsync.recipe import ScorerSettings
from agfsync.records import Candidate, Question, Score, digest
from agfsync.scorers import CapReached, Scorer, Unscored
from agfsync.scorers.annotators.scoring import REFUSED
from agfsync.scorers.batch import ImageToScore, ScoredImage, decode_images, score_images, score_key
from agfsync.stages import VERSIONS
from agfsync.stages.context import Context, digest_scorer
from agfsync.stages.spending import REMARKS, Account, list_scorer_arguments, open_judge_accounts
from agfsync.statistics import Mean
from agfsync.store import Run
from agfsync.store.manifest import Skipped
from agfsync.store.streams import Reiterable, Stream, iterate_batches

Judges = Mapping[str, ScorerSettings]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of `stage` with its images and their scores."""

    stage: str
    images: str
    scores: str


@dataclass(frozen=True, slots=True)
class ImageToJudge:
    """An image to judge, by its key; its file is in the unit `unit` of its table and is read when needed."""

    key: str
    unit: str
    prompt: str
    questions: tuple[Question, ...]
    by: tuple[str, ...] | None = None
    """the judges that are asked; None: all"""

    def is_for(self, judge: str) -> bool:
        """Return True if `judge_images` is asked."""
        return self.by is None or judge in self.by


@dataclass(frozen=True, slots=True)
class OtherScores:
    """Scores that are there already: their scorers' names, and for each image, in order, the units that hold them."""

    names: Sequence[str] = ()
    units: Callable[[], Iterable[Sequence[str]]] = lambda: repeat(())


Key = Callable[[ImageToJudge], str]
"""Function that returns the key of a judge's score of an image."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to a judge: a score called `key` of an image."""

    judge: str
    key: str
    image: ImageToJudge


@dataclass(frozen=True, slots=True)
class JudgingJob:
    """A job that scores images with the judges of a panel, up to `batch` images at a time.

    Judges behind a server have `accounts`, which stay in the leading process; so does the judging by these.
    """

    tables: Tables
    panel: Judges
    batch: int
    accounts: Mapping[str, Account] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return digest([digest_scorer(name, settings) for name, settings in self.panel.items()])

    @property
    def device(self) -> str:
        """The device of the panel, whose judges share one model."""
        first = next(iter(self.panel.values()))
        return first.device if first.asked_server is None else SERVER

    def reads(self, asked: Sequence[ScoreRequest]) -> tuple[str, Sequence[str]]:
        return self.tables.images, list(dict.fromkeys(each.image.unit for each in asked))

    def open(self, context: JobContext) -> BatchFunction[ScoreRequest]:
        @cache
        def load_scorer(name: str) -> Scorer:
            """Load a scorer when there is something to judge."""
            context.say(f"{self.tables.stage}: loading {name}")
            made: Scorer = catalog.build("scorers", list_scorer_arguments(self.panel[name], self.accounts.get(name)))
            return made

        def work(asked: Sequence[ScoreRequest]) -> Iterator[Outcome]:
            """Yield the outcomes; if a cap is reached, yield those before it first, since they were paid for."""
            of_image: dict[str, list[ScoreRequest]] = defaultdict(list)
            for each in asked:
                of_image[each.image.key].append(each)
            scorers = {name: load_scorer(name) for name in self.panel if any(each.judge == name for each in asked)}
            outcomes: dict[str, Outcome] = {}
            reached: CapReached | None = None
            try:
                context.fit.over(list(of_image.values()), partial(self._judge_batch, context.run, scorers, outcomes))
            except CapReached as failure:
                reached = failure
            for account in self.accounts.values():
                account.note()
            for each in asked:
                if reached is not None and each.key not in outcomes:
                    raise reached
                yield outcomes[each.key]

        return work

    def _judge_batch(
        self,
        run: Run,
        scorers: Mapping[str, Scorer],
        outcomes: dict[str, Outcome],
        asked: Sequence[Sequence[ScoreRequest]],
    ) -> Sequence[Sequence[ScoreRequest]]:
        """Enter the scores `asked` of each image into `outcomes` by key; each judge sees all images in one batch."""
        images = open_images(run, self.tables, [of[0].image for of in asked])
        for name, scorer in scorers.items():
            mine = [each for of in asked for each in of if each.judge == name]
            shown = [
                ImageToScore(each.key, each.image.key, each.image.prompt, each.image.questions, images[each.image.key])
                for each in mine
            ]
            for each, said in zip(mine, score_images(scorer, name, shown) if shown else [], strict=True):
                outcomes[each.key] = _make_outcome(said)
        return asked


def judge_images(
    context: Context,
    tables: Tables,
    judges: Judges,
    images: Reiterable[ImageToJudge],
    others: OtherScores | None = None,
) -> dict[str, Any]:
    """Let every judge score those of `images` that it hasn't scored, one model in memory at a time.

    The table of scores holds theirs and the `others` afterwards.

    Returns, for each judge and each of the others: the number `scored`, their `mean`, the counted reasons of the
    `unscored` ones, and the number for which it saw the beginning of the prompt only (`truncated`).

    Raises:
        ModelError: a judge can't be loaded. BudgetError: one left more unscored than `failure_budget` allows, or may
            cost no more.
    """
    keys = {name: _make_key_function(tables, name, settings) for name, settings in judges.items()}
    with open_judge_accounts(context, tables.stage, judges) as accounts:
        for panel in _group_panels(judges):
            _judge_by_panel(context, tables, panel, keys, images, accounts)
            release_memory()
    others = others or OtherScores()
    asked = (
        unit
        for image, more in zip(images, others.units(), strict=False)
        for unit in (*(key(image) for name, key in keys.items() if image.is_for(name)), *more)
    )
    context.run.select(tables.scores, asked)
    names = [*judges, *others.names]
    notes = _collect_notes(context, tables, names)
    for name, account in accounts.items():
        if account.meter.remarks:
            notes[name][REMARKS] = "; ".join(account.meter.remarks)
    _skip_unscored(context, tables, names, len(images))
    return notes


def _group_panels(judges: Judges) -> list[Judges]:
    """Return the judges grouped by model: those of a group see each batch in turn, and can share its embeddings."""
    panels: dict[tuple[Any, ...], dict[str, ScorerSettings]] = {}
    for name, settings in judges.items():
        weights = getattr(settings, "weights", None)
        key = (settings.path, weights, settings.revision, settings.dtype, settings.device, settings.asked_server)
        panels.setdefault(key, {})[name] = settings
    return list(panels.values())


def _judge_by_panel(
    context: Context,
    tables: Tables,
    panel: Judges,
    keys: Mapping[str, Key],
    images: Reiterable[ImageToJudge],
    accounts: Mapping[str, Account],
) -> None:
    """Score the images with the judges of a panel."""
    batch = context.recipe.scores.batch

    def units() -> Iterator[Unit[ScoreRequest]]:
        for some in iterate_batches(images, batch):
            for name in panel:
                for image in (each for each in some if each.is_for(name)):
                    key = keys[name](image)
                    yield Unit(key, ScoreRequest(name, key, image))

    run_job(
        context.run,
        tables.scores,
        Stream(sum(each.is_for(name) for each in images for name in panel), units),
        JudgingJob(tables, panel, batch, {name: accounts[name] for name in panel if name in accounts}),
        engine=context.recipe.engine,
        at_once=batch * len(panel),
        schema=Score.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="images" if len(panel) == 1 else "scores",
        title=f"{tables.stage}: {', '.join(panel)}",
    )


def _make_key_function(tables: Tables, name: str, settings: ScorerSettings) -> Key:
    """Return the function that names a judge's scores and their units."""
    source = digest(tables.scores, VERSIONS[tables.stage], digest_scorer(name, settings))
    # A scorer whose class doesn't say counts as asking: at worst, other questions make it score again.
    asks = getattr(catalog.find("scorers", settings.type), "asks_questions", True)
    return lambda image: score_key(source, asks, image.key, image.questions)


def open_images(run: Run, tables: Tables, images: Sequence[ImageToJudge]) -> dict[str, Image.Image | Unscored]:
    """Open the images once, so that every judge sees the same ones; return them by their keys."""
    holders = list(dict.fromkeys(each.unit for each in images))
    files = {c.key: c.image for c in run.read(tables.images, Candidate, holders)}
    return dict(zip((p.key for p in images), decode_images([files[p.key] for p in images]), strict=True))


def _make_outcome(judged: ScoredImage) -> Outcome:
    """Return the score; a truncated prompt is counted with it, and so known after a resume."""
    return Sifted([judged.score], {_describe_truncation(judged.score.scorer): 1} if judged.truncated else {})


def _describe_truncation(judge_: str) -> str:
    return f"{judge_} saw the beginning of the prompt only"


def _skip_unscored(context: Context, tables: Tables, judges: Sequence[str], images: int) -> None:
    """Enter images without a score as skipped, an entry for each judge and reason, and report them.

    A refusal is an annotator's answer: it counts as skipped, and not as a failure.

    Raises:
        BudgetError: a judge left more unscored than `failure_budget` allows.
    """
    run, skipped = context.run, dict[str, dict[str, Skipped]]()
    for row in run.rows(tables.scores, ["candidate_key", "scorer", "reason"]):
        if (why := row["reason"]) is not None:
            of_judge, where = skipped.setdefault(row["scorer"], {}), f"image {row['candidate_key']}"
            key, reason = digest("unscored", row["scorer"], why), f"no {row['scorer']} score: {why}"
            before = of_judge.get(why, Skipped(tables.scores, key, reason, where, 0))
            of_judge[why] = replace(before, count=before.count + 1)
    every = [each for of_judge in skipped.values() for each in of_judge.values()]
    for each in every:
        run.skip(each.stage, each.key, each.reason, each.where, each.count)
    for of_judge in skipped.values():
        failed = [each for why, each in of_judge.items() if why != REFUSED]
        check_budget(tables.stage, failed, images, context.recipe.failure_budget, "images")
    report_skipped(context.progress, tables.stage, every, images * len(judges), "scores")


def _collect_notes(context: Context, tables: Tables, judges: Sequence[str]) -> dict[str, Any]:
    means = {name: Mean() for name in judges}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in judges}
    for row in context.run.rows(tables.scores, ["scorer", "value", "reason"]):
        if row["value"] is None:
            reasons[row["scorer"]][row["reason"]] += 1
        else:
            means[row["scorer"]].add(row["value"])
    left_out = context.run.count_dropped(tables.scores)
    return {
        name: {
            "scored": mean.count,
            "mean": mean.value,
            "unscored": dict(reasons[name]),
            "truncated": left_out[_describe_truncation(name)],
        }
        for name, mean in means.items()
    }

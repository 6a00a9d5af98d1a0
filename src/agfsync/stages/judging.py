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
    """An image to judge; its file is in the unit `unit` of the images' table, and is read when needed."""

    key: str
    unit: str
    prompt: str
    questions: tuple[Question, ...]
    by: tuple[str, ...] | None = None
    """the names of its judges; None: all"""

    def is_for(self, judge: str) -> bool:
        """Return True if `judge` scores the image."""
        return self.by is None or judge in self.by


@dataclass(frozen=True, slots=True)
class OtherScores:
    """Existing scores: their scorers' names, and for each image, in order, the units that hold the scores."""

    names: Sequence[str] = ()
    units: Callable[[], Iterable[Sequence[str]]] = lambda: repeat(())


KeyFunction = Callable[[ImageToJudge], str]
"""A function that returns the key of a judge's score of an image."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to a judge: the score of an image; `key` is the score's key."""

    judge: str
    key: str
    image: ImageToJudge


@dataclass(frozen=True, slots=True)
class JudgingJob:
    """A job that scores images with the judges of a panel, up to `batch` images at a time.

    Judges behind a server have `accounts`; both stay in the leading process.
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

    def reads(self, requests: Sequence[ScoreRequest]) -> tuple[str, Sequence[str]]:
        return self.tables.images, list(dict.fromkeys(request.image.unit for request in requests))

    def open(self, context: JobContext) -> BatchFunction[ScoreRequest]:
        @cache
        def load_scorer(name: str) -> Scorer:
            """Load a scorer when its first image is to be judged."""
            context.say(f"{self.tables.stage}: loading {name}")
            scorer: Scorer = catalog.build("scorers", list_scorer_arguments(self.panel[name], self.accounts.get(name)))
            return scorer

        def work(requests: Sequence[ScoreRequest]) -> Iterator[Outcome]:
            """Yield the outcomes; if a cap is reached, yield those before it, which were paid for, then raise."""
            by_image: dict[str, list[ScoreRequest]] = defaultdict(list)
            for request in requests:
                by_image[request.image.key].append(request)
            asked = {request.judge for request in requests}
            scorers = {name: load_scorer(name) for name in self.panel if name in asked}
            outcomes: dict[str, Outcome] = {}
            reached: CapReached | None = None
            try:
                context.fit.over(list(by_image.values()), partial(self._judge_batch, context.run, scorers, outcomes))
            except CapReached as failure:
                reached = failure
            for account in self.accounts.values():
                account.note()
            for request in requests:
                if reached is not None and request.key not in outcomes:
                    raise reached
                yield outcomes[request.key]

        return work

    def _judge_batch(
        self,
        run: Run,
        scorers: Mapping[str, Scorer],
        outcomes: dict[str, Outcome],
        requests_by_image: Sequence[Sequence[ScoreRequest]],
    ) -> Sequence[Sequence[ScoreRequest]]:
        """Add the requested scores of each image to `outcomes` by key; each judge sees all images in one batch."""
        images = open_images(run, self.tables, [requests[0].image for requests in requests_by_image])
        for name, scorer in scorers.items():
            own = [request for requests in requests_by_image for request in requests if request.judge == name]
            items = [
                ImageToScore(request.key, image.key, image.prompt, image.questions, images[image.key])
                for request, image in ((request, request.image) for request in own)
            ]
            for request, scored in zip(own, score_images(scorer, name, items) if items else [], strict=True):
                outcomes[request.key] = _make_outcome(scored)
        return requests_by_image


def judge_images(
    context: Context,
    tables: Tables,
    judges: Judges,
    images: Reiterable[ImageToJudge],
    others: OtherScores | None = None,
) -> dict[str, Any]:
    """Let every judge score those of `images` that it hasn't scored, one model in memory at a time.

    Afterwards the table of scores holds these and the `others`.

    Returns, for each judge and each of the others: the number of `scored` images, their `mean`, the counted reasons of
    the `unscored` ones, and the number of images whose prompt the judge saw `truncated`.

    Raises:
        ModelError: a judge can't be loaded. BudgetError: one left more unscored than `failure_budget` allows, or has
            reached its cap.
    """
    keys = {name: _make_key_function(tables, name, settings) for name, settings in judges.items()}
    with open_judge_accounts(context, tables.stage, judges) as accounts:
        for panel in _group_panels(judges):
            _judge_by_panel(context, tables, panel, keys, images, accounts)
            release_memory()
    others = others or OtherScores()
    units = (
        unit
        for image, other_units in zip(images, others.units(), strict=False)
        for unit in (*(key(image) for name, key in keys.items() if image.is_for(name)), *other_units)
    )
    context.run.select(tables.scores, units)
    names = [*judges, *others.names]
    notes = _collect_notes(context, tables, names)
    for name, account in accounts.items():
        if account.meter.remarks:
            notes[name][REMARKS] = "; ".join(account.meter.remarks)
    _skip_unscored(context, tables, names, len(images))
    return notes


def _group_panels(judges: Judges) -> list[Judges]:
    """Return the judges grouped by model: the judges of a group score the same batches, and can share embeddings."""
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
    keys: Mapping[str, KeyFunction],
    images: Reiterable[ImageToJudge],
    accounts: Mapping[str, Account],
) -> None:
    """Score the images with the judges of a panel."""
    batch = context.recipe.scores.batch

    def units() -> Iterator[Unit[ScoreRequest]]:
        for chunk in iterate_batches(images, batch):
            for name in panel:
                for image in (each for each in chunk if each.is_for(name)):
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


def _make_key_function(tables: Tables, name: str, settings: ScorerSettings) -> KeyFunction:
    """Return the function that gives the keys of a judge's scores, which are also their units' keys."""
    source = digest(tables.scores, VERSIONS[tables.stage], digest_scorer(name, settings))
    # Without the attribute, a scorer is assumed to ask questions: at worst, new questions make it score again.
    asks = getattr(catalog.find("scorers", settings.type), "asks_questions", True)
    return lambda image: score_key(source, asks, image.key, image.questions)


def open_images(run: Run, tables: Tables, images: Sequence[ImageToJudge]) -> dict[str, Image.Image | Unscored]:
    """Decode the images once for all judges; return them by their keys."""
    units = list(dict.fromkeys(image.unit for image in images))
    files = {c.key: c.image for c in run.read(tables.images, Candidate, units)}
    return dict(zip((p.key for p in images), decode_images([files[p.key] for p in images]), strict=True))


def _make_outcome(scored: ScoredImage) -> Outcome:
    """Return the score; a truncated prompt is counted as dropped, so that a resumed run knows it."""
    return Sifted([scored.score], {_describe_truncation(scored.score.scorer): 1} if scored.truncated else {})


def _describe_truncation(judge: str) -> str:
    return f"{judge} saw the beginning of the prompt only"


def _skip_unscored(context: Context, tables: Tables, judges: Sequence[str], images: int) -> None:
    """Record images without a score as skipped, one entry for each judge and reason, and report them.

    An annotator's refusal is a valid answer: it is skipped, but not a failure.

    Raises:
        BudgetError: a judge left more unscored than `failure_budget` allows.
    """
    run, skipped = context.run, dict[str, dict[str, Skipped]]()
    for row in run.rows(tables.scores, ["candidate_key", "scorer", "reason"]):
        if (reason := row["reason"]) is not None:
            by_reason, where = skipped.setdefault(row["scorer"], {}), f"image {row['candidate_key']}"
            key, message = digest("unscored", row["scorer"], reason), f"no {row['scorer']} score: {reason}"
            before = by_reason.get(reason, Skipped(tables.scores, key, message, where, 0))
            by_reason[reason] = replace(before, count=before.count + 1)
    entries = [entry for by_reason in skipped.values() for entry in by_reason.values()]
    for entry in entries:
        run.skip(entry.stage, entry.key, entry.reason, entry.where, entry.count)
    for by_reason in skipped.values():
        failed = [entry for reason, entry in by_reason.items() if reason != REFUSED]
        check_budget(tables.stage, failed, images, context.recipe.failure_budget, "images")
    report_skipped(context.progress, tables.stage, entries, images * len(judges), "scores")


def _collect_notes(context: Context, tables: Tables, judges: Sequence[str]) -> dict[str, Any]:
    means = {name: Mean() for name in judges}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in judges}
    for row in context.run.rows(tables.scores, ["scorer", "value", "reason"]):
        if row["value"] is None:
            reasons[row["scorer"]][row["reason"]] += 1
        else:
            means[row["scorer"]].add(row["value"])
    dropped = context.run.count_dropped(tables.scores)
    return {
        name: {
            "scored": mean.count,
            "mean": mean.value,
            "unscored": dict(reasons[name]),
            "truncated": dropped[_describe_truncation(name)],
        }
        for name, mean in means.items()
    }

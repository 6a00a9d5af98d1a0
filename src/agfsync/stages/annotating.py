"""The annotators of the stage scores: all candidates of a caption at once, by each aspect, in several orders.

A unit is one request, so that no request is repeated. The candidates' scores are computed from the replies.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from agfsync import catalog
from agfsync.engine.jobs import SERVER, BatchFunction, JobContext, Outcome, Unit
from agfsync.engine.processing import process_units
from agfsync.engine.running import run_job
from agfsync.errors import ModelError
from agfsync.recipe.scorers import AnnotatorSettings
from agfsync.records import Annotation, Score, derive_seed, digest
from agfsync.scorers import Measurement, Unscored
from agfsync.scorers.annotators import AnnotationRequest, Annotator, AspectJudgement, Unjudged, draw_orders
from agfsync.scorers.annotators.aspects import PROTOCOL_VERSION
from agfsync.scorers.annotators.checks import (
    AspectTally,
    ImageVerdict,
    OverallTally,
    find_contradictions,
    make_verdict,
    sum_verdicts,
)
from agfsync.scorers.annotators.scoring import OVERALL, average_aspects, average_scores
from agfsync.scorers.batch import make_score
from agfsync.stages import VERSIONS
from agfsync.stages.context import Context, digest_scorer
from agfsync.stages.judging import ImageToJudge, OtherScores, Tables, open_images
from agfsync.stages.spending import Account, list_scorer_arguments, open_judge_accounts
from agfsync.store import Run
from agfsync.store.streams import Reiterable, Stream, group_by_column, join_in_order

ANNOTATIONS = "scores_annotations"
"""The table of the replies."""
ANNOTATORS = "annotators"
"""The note with the checks of each annotator's replies."""
Annotators = Mapping[str, AnnotatorSettings]


@dataclass(frozen=True, slots=True)
class CandidateGroup:
    """All candidates of a caption."""

    caption_key: str
    images: tuple[ImageToJudge, ...]


Groups = Reiterable[CandidateGroup]


@dataclass(frozen=True, slots=True)
class AnnotationTask:
    """A request to an annotator: the candidates `shown` of a group, by one aspect, in the `order`-th of its orders."""

    key: str
    group: CandidateGroup
    aspect: str
    order: int
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnnotatingJob:
    """A job that sends requests to the annotator `name`; one behind a server has an `account`."""

    name: str
    settings: AnnotatorSettings
    account: Account | None = None
    batch: int = 1

    @property
    def source(self) -> str:
        return digest_scorer(self.name, self.settings)

    @property
    def device(self) -> str:
        return self.settings.device if self.settings.asked_server is None else SERVER

    def reads(self, tasks: Sequence[AnnotationTask]) -> tuple[str, Sequence[str]]:
        return "candidates", list(dict.fromkeys(image.unit for task in tasks for image in task.group.images))

    def open(self, context: JobContext) -> BatchFunction[AnnotationTask]:
        context.say(f"scores: loading {self.name}")
        annotator: Annotator = catalog.build("scorers", list_scorer_arguments(self.settings, self.account))

        def work(tasks: Sequence[AnnotationTask]) -> Iterator[Outcome]:
            """Yield each reply as it arrives; if a cap is reached, the earlier ones have been yielded."""
            try:
                for task, reply in self._annotate(context, annotator, tasks):
                    yield [_make_annotation(self.name, task, reply)]
            finally:
                if self.account is not None:
                    self.account.note()

        return work

    def _annotate(
        self, context: JobContext, annotator: Annotator, tasks: Sequence[AnnotationTask]
    ) -> Iterator[tuple[AnnotationTask, AspectJudgement | Unjudged]]:
        candidates = {image.key: image for task in tasks for image in task.group.images}
        images = open_images(context.run, Tables("scores", "candidates", "scores"), list(candidates.values()))
        readable = [_drop_broken_images(task, images) for task in tasks]
        replies = iter(annotator.annotate([_make_request(task, images) for task in readable if task.shown]))
        for task in readable:
            reply = next(replies, None) if task.shown else Unjudged("no image of the caption can be opened")
            if reply is None:
                raise ModelError(f"scorer '{self.name}' gave fewer replies than it got requests: fix the scorer")
            yield task, reply


def _drop_broken_images(task: AnnotationTask, images: Mapping[str, Image.Image | Unscored]) -> AnnotationTask:
    shown = tuple(key for key in task.shown if isinstance(images[key], Image.Image))
    return AnnotationTask(task.key, task.group, task.aspect, task.order, shown)


def _make_request(task: AnnotationTask, images: Mapping[str, Any]) -> AnnotationRequest:
    prompt = task.group.images[0].prompt
    return AnnotationRequest(prompt, task.aspect, tuple(images[key] for key in task.shown), derive_seed(task.key))


def _make_annotation(annotator: str, task: AnnotationTask, reply: AspectJudgement | Unjudged) -> Annotation:
    # The key covers the reply, so that scores of a different reply are computed again.
    place = (task.group.caption_key, annotator, task.aspect, task.order, task.shown)
    if isinstance(reply, Unjudged):
        key = digest("annotation", task.key, reply.reason, reply.replies)
        return Annotation(key, *place, (), (), (), reply.replies, reply.reason, reply.refused)
    content = (reply.scores, reply.ranks, reply.reasons, reply.replies)
    return Annotation(digest("annotation", task.key, *content), *place, *content)


def annotate_candidates(context: Context, annotators: Annotators, groups: Groups) -> tuple[OtherScores, dict[str, Any]]:
    """Let every annotator judge the groups that it hasn't judged; return the candidates' scores, and the checks.

    Raises:
        ModelError: an annotator can't be loaded. BudgetError: one has reached its cap.
    """
    with open_judge_accounts(context, "scores", annotators) as accounts:
        for name, settings in annotators.items():
            _run_annotator(context, name, settings, groups, accounts.get(name))
    keys = (
        task.key
        for group in groups
        for name, settings in annotators.items()
        for task in _list_tasks(context.recipe.seed, name, settings, group)
    )
    context.run.select(ANNOTATIONS, keys)
    read = partial(_read_scores, context, annotators, groups)
    process_units(
        context.run,
        "scores",
        Stream(
            len(annotators) * sum(len(group.images) for group in groups), lambda: (u for units in read() for u in units)
        ),
        lambda payloads: payloads,
        batch=1000,
        schema=Score.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="images",
        title=f"scores: {', '.join(annotators)}",
    )
    names = [
        score
        for name, settings in annotators.items()
        for score in (*(f"{name}.{aspect}" for aspect in settings.aspects), name)
    ]
    checks = _check_replies(context, annotators)
    return OtherScores(names, lambda: ([unit.key for unit in units] for units in read())), checks


def _run_annotator(
    context: Context, name: str, settings: AnnotatorSettings, groups: Groups, account: Account | None
) -> None:
    requests = len(settings.aspects) * settings.orders
    images = max((len(group.images) for group in groups), default=1)
    run_job(
        context.run,
        ANNOTATIONS,
        Stream(
            len(groups) * requests,
            lambda: (
                Unit(task.key, task)
                for group in groups
                for task in _list_tasks(context.recipe.seed, name, settings, group)
            ),
        ),
        AnnotatingJob(name, settings, account),
        engine=context.recipe.engine,
        at_once=max(1, context.recipe.scores.batch // images) * requests,
        schema=Annotation.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="requests",
        title=f"scores: {name}",
    )


def _list_tasks(seed: int, name: str, settings: AnnotatorSettings, group: CandidateGroup) -> Iterator[AnnotationTask]:
    """Yield the requests on a group: one for each aspect and order."""
    keys = [image.key for image in group.images]
    drawn = derive_seed("duplicate", seed, group.caption_key)
    if drawn < settings.duplicates * 2**63:
        keys.append(keys[drawn % len(keys)])
    for aspect, text in settings.aspects.items():
        # The key depends on this aspect alone: a changed list of aspects, or number of orders, repeats no request.
        alone = settings.model_copy(update={"aspects": {aspect: text}, "orders": 1, "duplicates": 0.0})
        source = digest(ANNOTATIONS, VERSIONS["scores"], PROTOCOL_VERSION, digest_scorer(name, alone))
        for number, order in enumerate(draw_orders(len(keys), settings.orders, seed, group.caption_key, aspect)):
            shown = tuple(keys[position] for position in order)
            yield AnnotationTask(digest(source, number, shown), group, aspect, number, shown)


def _read_scores(context: Context, annotators: Annotators, groups: Groups) -> Iterator[list[Unit[list[Score]]]]:
    """Yield for each candidate, in order, the units with its scores, one for each annotator."""
    rows = group_by_column("caption_key", context.run.rows(ANNOTATIONS))
    for group, group_rows in join_in_order(groups, lambda group: group.caption_key, rows):
        replies = _sort_replies(group_rows or ())
        for image in group.images:
            yield [_score_candidate(name, settings, image.key, replies[name]) for name, settings in annotators.items()]


def _sort_replies(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, list[Annotation]]]:
    """Return annotator -> aspect -> its replies, in the order of the requests."""
    replies: dict[str, dict[str, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        replies[row["annotator"]][row["aspect"]].append(Annotation.of(row))
    return replies


def _score_candidate(
    name: str, settings: AnnotatorSettings, candidate: str, replies: Mapping[str, Sequence[Annotation]]
) -> Unit[list[Score]]:
    reply_keys = [reply.key for rows in replies.values() for reply in rows]
    key = digest("annotated", VERSIONS["scores"], name, candidate, reply_keys)
    values: dict[str, Measurement | Unscored] = {
        aspect: average_scores(replies.get(aspect, ()), candidate) for aspect in settings.aspects
    }
    by_scorer = {f"{name}.{aspect}": value for aspect, value in values.items()} | {name: average_aspects(values)}
    scores = [make_score(digest("score", key, scorer), candidate, scorer, value) for scorer, value in by_scorer.items()]
    return Unit(key, scores)


def _check_replies(context: Context, annotators: Annotators) -> dict[str, Any]:
    """Return the checks of each annotator's replies by aspect, and of its overall score against its aspects' mean."""
    tallies = {name: {aspect: AspectTally() for aspect in each.aspects} for name, each in annotators.items()}
    overall = {
        name: OverallTally() for name, each in annotators.items() if OVERALL in each.aspects and len(each.aspects) > 1
    }
    for _, rows in group_by_column("caption_key", context.run.rows(ANNOTATIONS)):
        for name, by_aspect in _sort_replies(rows).items():
            for aspect, replies in by_aspect.items():
                tallies[name][aspect].add_replies(replies)
            if name in overall:
                _compare_overall(overall[name], by_aspect)
    return {
        name: {"aspects": {aspect: tally.summarise() for aspect, tally in by_aspect.items()}}
        | ({"overall": overall[name].summarise()} if name in overall else {})
        for name, by_aspect in tallies.items()
    }


def _compare_overall(tally: OverallTally, replies: Mapping[str, Sequence[Annotation]]) -> None:
    for candidate in sorted({key for rows in replies.values() for reply in rows for key in reply.shown}):
        values = {aspect: average_scores(rows, candidate) for aspect, rows in replies.items()}
        overall, mean = values[OVERALL], average_aspects(values)
        if isinstance(overall, Measurement) and isinstance(mean, Measurement):
            tally.add(1 + overall.value / 25, 1 + mean.value / 25)


def read_contradictions(run: Run) -> Iterator[tuple[str, dict[str, set[frozenset[str]]]]]:
    """Yield each annotated caption with the couples of images that a score's orders rank differently, by score."""
    for caption, rows in group_by_column("caption_key", run.rows(ANNOTATIONS)):
        couples: dict[str, set[frozenset[str]]] = {}
        for name, by_aspect in _sort_replies(rows).items():
            couples |= {f"{name}.{aspect}": AspectTally().add_replies(replies) for aspect, replies in by_aspect.items()}
            couples[name] = find_contradictions(_sum_orders(by_aspect))
        yield caption, couples


def _sum_orders(replies: Mapping[str, Sequence[Annotation]]) -> list[ImageVerdict]:
    """Return, for each order in which all aspects of the mean were judged, the sum of their verdicts."""
    averaged = [rows for aspect, rows in replies.items() if aspect != OVERALL] or list(replies.values())
    return [
        sum_verdicts([make_verdict(reply.shown, reply.scores, reply.ranks) for reply in same_order])
        for same_order in zip(*averaged, strict=False)
        if all(reply.scores for reply in same_order)
    ]

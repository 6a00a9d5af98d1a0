"""The annotators of the stage scores: all candidates of a caption at once, by each aspect, in several orders.

A unit is one request, so that no reply is asked for twice. The candidates' scores follow from the replies.
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
"""The note of the checks of each annotator's replies."""
Annotators = Mapping[str, AnnotatorSettings]


@dataclass(frozen=True, slots=True)
class CandidateGroup:
    """All candidates of a caption."""

    caption_key: str
    images: tuple[ImageToJudge, ...]


Groups = Reiterable[CandidateGroup]


@dataclass(frozen=True, slots=True)
class AnnotationTask:
    """A request to the annotator: the candidates `shown` of a group, by one aspect, as the `order`-th of its orders."""

    key: str
    group: CandidateGroup
    aspect: str
    order: int
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnnotatingJob:
    """A job that asks the annotator called `name`; one behind a server has an `account`."""

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
        return "candidates", list(dict.fromkeys(each.unit for task in tasks for each in task.group.images))

    def open(self, context: JobContext) -> BatchFunction[AnnotationTask]:
        context.say(f"scores: loading {self.name}")
        made: Annotator = catalog.build("scorers", list_scorer_arguments(self.settings, self.account))

        def work(tasks: Sequence[AnnotationTask]) -> Iterator[Outcome]:
            """Yield each reply as it comes; if a cap is reached, those before it were given."""
            try:
                for task, reply in self._annotate(context, made, tasks):
                    yield [_make_annotation(self.name, task, reply)]
            finally:
                if self.account is not None:
                    self.account.note()

        return work

    def _annotate(
        self, context: JobContext, annotator: Annotator, tasks: Sequence[AnnotationTask]
    ) -> Iterator[tuple[AnnotationTask, AspectJudgement | Unjudged]]:
        shown = {each.key: each for task in tasks for each in task.group.images}
        images = open_images(context.run, Tables("scores", "candidates", "scores"), list(shown.values()))
        readable = [_leave_out_broken(task, images) for task in tasks]
        replies = iter(annotator.annotate([_make_request(task, images) for task in readable if task.shown]))
        for task in readable:
            reply = next(replies, None) if task.shown else Unjudged("no image of the caption can be opened")
            if reply is None:
                raise ModelError(f"scorer '{self.name}' gave fewer replies than it got requests: mend the scorer")
            yield task, reply


def _leave_out_broken(task: AnnotationTask, images: Mapping[str, Image.Image | Unscored]) -> AnnotationTask:
    shown = tuple(key for key in task.shown if isinstance(images[key], Image.Image))
    return AnnotationTask(task.key, task.group, task.aspect, task.order, shown)


def _make_request(task: AnnotationTask, images: Mapping[str, Any]) -> AnnotationRequest:
    prompt = task.group.images[0].prompt
    return AnnotationRequest(prompt, task.aspect, tuple(images[key] for key in task.shown), derive_seed(task.key))


def _make_annotation(annotator: str, task: AnnotationTask, reply: AspectJudgement | Unjudged) -> Annotation:
    # The key holds the reply, so that what follows from other words is made again.
    place = (task.group.caption_key, annotator, task.aspect, task.order, task.shown)
    if isinstance(reply, Unjudged):
        key = digest("annotation", task.key, reply.reason, reply.replies)
        return Annotation(key, *place, (), (), (), reply.replies, reply.reason, reply.refused)
    found = (reply.scores, reply.ranks, reply.reasons, reply.replies)
    return Annotation(digest("annotation", task.key, *found), *place, *found)


def annotate_candidates(context: Context, annotators: Annotators, groups: Groups) -> tuple[OtherScores, dict[str, Any]]:
    """Let every annotator judge the groups that it hasn't judged; return the candidates' scores, and the checks.

    Raises:
        ModelError: an annotator can't be loaded. BudgetError: one may cost no more.
    """
    with open_judge_accounts(context, "scores", annotators) as accounts:
        for name, settings in annotators.items():
            _ask_annotator(context, name, settings, groups, accounts.get(name))
    every = (
        task.key
        for group in groups
        for name, settings in annotators.items()
        for task in _list_tasks(context.recipe.seed, name, settings, group)
    )
    context.run.select(ANNOTATIONS, every)
    read = partial(_read_scores, context, annotators, groups)
    process_units(
        context.run,
        "scores",
        Stream(
            len(annotators) * sum(len(group.images) for group in groups), lambda: (u for some in read() for u in some)
        ),
        lambda payloads: payloads,
        batch=1000,
        schema=Score.schema,
        progress=context.progress,
        budget=context.recipe.failure_budget,
        unit="images",
        title=f"scores: {', '.join(annotators)}",
    )
    names = [score for name, of in annotators.items() for score in (*(f"{name}.{each}" for each in of.aspects), name)]
    checks = _check_replies(context, annotators)
    return OtherScores(names, lambda: ([unit.key for unit in some] for some in read())), checks


def _ask_annotator(
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
    """Yield the requests on a group: of every aspect, every order."""
    keys = [each.key for each in group.images]
    drawn = derive_seed("duplicate", seed, group.caption_key)
    if drawn < settings.duplicates * 2**63:
        keys.append(keys[drawn % len(keys)])
    for aspect, text in settings.aspects.items():
        # A changed list of aspects, or of orders, asks nothing again that was asked.
        alone = settings.model_copy(update={"aspects": {aspect: text}, "orders": 1, "duplicates": 0.0})
        source = digest(ANNOTATIONS, VERSIONS["scores"], PROTOCOL_VERSION, digest_scorer(name, alone))
        for number, order in enumerate(draw_orders(len(keys), settings.orders, seed, group.caption_key, aspect)):
            shown = tuple(keys[position] for position in order)
            yield AnnotationTask(digest(source, number, shown), group, aspect, number, shown)


def _read_scores(context: Context, annotators: Annotators, groups: Groups) -> Iterator[list[Unit[list[Score]]]]:
    """Yield for each candidate, in order, the unit of each annotator's scores of it."""
    rows = group_by_column("caption_key", context.run.rows(ANNOTATIONS))
    for group, said in join_in_order(groups, lambda group: group.caption_key, rows):
        replies = _sort_replies(said or ())
        for image in group.images:
            yield [_score_candidate(name, settings, image.key, replies[name]) for name, settings in annotators.items()]


def _sort_replies(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, list[Annotation]]]:
    """Return annotator -> aspect -> its replies, in the order of asking."""
    replies: dict[str, dict[str, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        replies[row["annotator"]][row["aspect"]].append(Annotation.of(row))
    return replies


def _score_candidate(
    name: str, settings: AnnotatorSettings, candidate: str, replies: Mapping[str, Sequence[Annotation]]
) -> Unit[list[Score]]:
    key = digest("annotated", VERSIONS["scores"], name, candidate, [each.key for of in replies.values() for each in of])
    values: dict[str, Measurement | Unscored] = {
        aspect: average_scores(replies.get(aspect, ()), candidate) for aspect in settings.aspects
    }
    named = {f"{name}.{aspect}": value for aspect, value in values.items()} | {name: average_aspects(values)}
    return Unit(key, [make_score(digest("score", key, each), candidate, each, value) for each, value in named.items()])


def _check_replies(context: Context, annotators: Annotators) -> dict[str, Any]:
    """Return the checks of each annotator's replies by aspect, and of an overall aspect against the mean."""
    tallies = {name: {aspect: AspectTally() for aspect in of.aspects} for name, of in annotators.items()}
    overall = {name: OverallTally() for name, of in annotators.items() if OVERALL in of.aspects and len(of.aspects) > 1}
    for _, rows in group_by_column("caption_key", context.run.rows(ANNOTATIONS)):
        for name, of_aspect in _sort_replies(rows).items():
            for aspect, replies in of_aspect.items():
                tallies[name][aspect].add_replies(replies)
            if name in overall:
                _compare_overall(overall[name], of_aspect)
    return {
        name: {"aspects": {aspect: tally.summarise() for aspect, tally in of.items()}}
        | ({"overall": overall[name].summarise()} if name in overall else {})
        for name, of in tallies.items()
    }


def _compare_overall(tally: OverallTally, replies: Mapping[str, Sequence[Annotation]]) -> None:
    for candidate in sorted({key for of in replies.values() for each in of for key in each.shown}):
        values = {aspect: average_scores(of, candidate) for aspect, of in replies.items()}
        whole, mean = values[OVERALL], average_aspects(values)
        if isinstance(whole, Measurement) and isinstance(mean, Measurement):
            tally.add(1 + whole.value / 25, 1 + mean.value / 25)


def read_contradictions(run: Run) -> Iterator[tuple[str, dict[str, set[frozenset[str]]]]]:
    """Yield each annotated caption with the couples on which each of its scores' orders contradict each other."""
    for caption, rows in group_by_column("caption_key", run.rows(ANNOTATIONS)):
        found: dict[str, set[frozenset[str]]] = {}
        for name, of_aspect in _sort_replies(rows).items():
            found |= {f"{name}.{aspect}": AspectTally().add_replies(replies) for aspect, replies in of_aspect.items()}
            found[name] = find_contradictions(_sum_orders(of_aspect))
        yield caption, found


def _sum_orders(replies: Mapping[str, Sequence[Annotation]]) -> list[ImageVerdict]:
    """Return for each order in which all aspects of the mean were judged their verdict together."""
    taken = [of for aspect, of in replies.items() if aspect != OVERALL] or list(replies.values())
    return [
        sum_verdicts([make_verdict(each.shown, each.scores, each.ranks) for each in same])
        for same in zip(*taken, strict=False)
        if all(each.scores for each in same)
    ]

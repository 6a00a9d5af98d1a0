"""Pairwise judging of an evaluation set: each caption's base image against its aligned one, in both orders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.engine.jobs import SERVER, BatchFunction, JobContext, Outcome, Unit
from agfsync.engine.processing import check_budget, report_skipped
from agfsync.engine.running import run_job
from agfsync.recipe.scorers import PairwiseSettings
from agfsync.records import Caption, Vote, digest
from agfsync.scorers import CapReached, Unscored
from agfsync.scorers.pairwise import Ballot, Match, PairwiseJudge, UnreadReply
from agfsync.stages import VERSIONS
from agfsync.stages.context import Context, digest_scorer
from agfsync.stages.evaluation.comparing import Sides
from agfsync.stages.evaluation.votes import summarise_votes
from agfsync.stages.judging import ImageToJudge, Tables, open_images
from agfsync.stages.spending import ACCOUNT, Account, open_account
from agfsync.store import Run
from agfsync.store.manifest import Skipped

_STAGE = "evaluation"
VOTES = "votes"
_MODELS = ("base", "aligned")


@dataclass(frozen=True, slots=True)
class VoteTask:
    """A match to judge: the images of `first` and of the other model, in this order. `key` is the vote's key."""

    key: str
    set: str
    caption_key: str
    ask: str
    first: str
    images: tuple[ImageToJudge, ImageToJudge]


@dataclass(frozen=True, slots=True)
class PairwiseJob:
    """A job in which a judge compares images, `batch` matches at a time.

    A judge behind a server has an `account`; both stay in the leading process.
    """

    settings: PairwiseSettings
    images_table: str
    batch: int
    account: Account | None = None

    @property
    def source(self) -> str:
        return digest_pairwise_judge(self.settings)

    @property
    def device(self) -> str:
        return self.settings.device if self.settings.asked_server is None else SERVER

    def reads(self, tasks: Sequence[VoteTask]) -> tuple[str, Sequence[str]]:
        return self.images_table, list(dict.fromkeys(each.unit for task in tasks for each in task.images))

    def open(self, context: JobContext) -> BatchFunction[VoteTask]:
        context.say(f"{_STAGE}: loading {self.settings.path or self.settings.type}")
        arguments = self.settings.model_dump(exclude={"server": ACCOUNT, "asks": True})
        judge: PairwiseJudge = catalog.build(
            "pairwise", arguments | ({} if self.account is None else {"meter": self.account.meter})
        )

        def work(tasks: Sequence[VoteTask]) -> Iterator[Outcome]:
            """Yield the votes; if a cap is reached, yield the votes before it, which were paid for, then raise."""
            votes: dict[str, Outcome] = {}
            reached: CapReached | None = None
            try:
                context.fit.over(tasks, partial(self._compare_batch, context.run, judge, votes))
            except CapReached as failure:
                reached = failure
            if self.account is not None:
                self.account.note()
            for task in tasks:
                if reached is not None and task.key not in votes:
                    raise reached
                yield votes[task.key]

        return work

    def _compare_batch(
        self, run: Run, judge: PairwiseJudge, votes: dict[str, Outcome], tasks: Sequence[VoteTask]
    ) -> Sequence[VoteTask]:
        """Add the vote on each task to `votes` by its key; the judge isn't shown matches with a broken image."""
        files = {each.key: each for task in tasks for each in task.images}
        images = open_images(run, Tables(_STAGE, self.images_table, VOTES), list(files.values()))
        shown: list[tuple[VoteTask, Match]] = []
        for task in tasks:
            first, second = (images[each.key] for each in task.images)
            if isinstance(first, Unscored) or isinstance(second, Unscored):
                fault = first if isinstance(first, Unscored) else second
                votes[task.key] = [make_vote(task, Unscored(str(getattr(fault, "reason", ""))))]
            else:
                shown.append((task, Match(task.images[0].prompt, task.ask, first, second)))
        reached: CapReached | None = None
        try:
            results = list(judge.compare([match for _, match in shown])) if shown else []
        except CapReached as failure:
            reached, results = failure, list(failure.results)
        votes |= {task.key: [make_vote(task, result)] for (task, _), result in zip(shown, results, strict=False)}
        if reached is not None:
            raise reached
        return tasks


def make_vote(task: VoteTask, result: Ballot | Unscored) -> Vote:
    """Return the vote on a task; one without a choice has the reason."""
    identity = (task.key, task.set, task.caption_key, task.ask, task.first)
    other = _MODELS[1 - _MODELS.index(task.first)]
    if isinstance(result, Ballot):
        choice = {"1": task.first, "2": other, "tie": "tie"}[result.choice]
        return Vote(*identity, choice, result.explanation, result.reply)
    reply = result.reply if isinstance(result, UnreadReply) else ""
    return Vote(*identity, None, "", reply, result.reason)


def judge_pairwise(
    context: Context,
    table: str,
    images: Mapping[str, ImageToJudge],
    sides: Sides,
    captions: Mapping[str, Sequence[Caption]],
) -> dict[str, Any]:
    """Judge every pairwise set of the recipe; return the figures by the set's name and ask.

    Args:
        table: the table of the images.
        images: the images by their keys.
        captions: the captions of each set that has its own, by its name.

    Raises:
        ModelError: a judge can't be loaded. BudgetError: one left more votes open than `failure_budget` allows, or
            has reached its cap.
    """
    recipe = context.recipe
    pairwise_sets = {name: each for name, each in recipe.evaluation.sets.items() if each.pairwise is not None}
    tasks = {
        name: list(_list_tasks(name, each.pairwise, captions[each.of], images, sides))
        for name, each in pairwise_sets.items()
        if each.pairwise is not None and each.of is not None
    }
    for name, of_set in tasks.items():
        settings = pairwise_sets[name].pairwise
        assert settings is not None
        _collect_votes(context, table, name, settings, of_set)
    context.run.select(VOTES, [task.key for of_set in tasks.values() for task in of_set])
    votes = list(context.run.read(VOTES, Vote)) if tasks else []
    _skip_open_votes(context, votes)
    figures_of = {}
    for name in tasks:
        figures_of[name] = summarise_votes(
            [vote for vote in votes if vote.set == name], recipe.evaluation.resamples, recipe.seed
        )
        for ask, figures in figures_of[name].items():
            context.progress.say(f"{_STAGE}: {name}: {_describe_figures(ask, figures)}")
    return figures_of


def digest_pairwise_judge(settings: PairwiseSettings) -> str:
    """Return the digest of a pairwise judge and of all settings that affect a single vote."""
    return digest_scorer("pairwise", settings.model_copy(update={"asks": ()}))


def _list_tasks(
    name: str,
    settings: PairwiseSettings,
    captions: Sequence[Caption],
    images: Mapping[str, ImageToJudge],
    sides: Sides,
) -> Iterator[VoteTask]:
    source = digest(VERSIONS[_STAGE], digest_pairwise_judge(settings))
    for caption in captions:
        if caption.key not in sides:
            continue
        of = {model: images[key] for model, key in zip(_MODELS, sides[caption.key], strict=True)}
        for ask in settings.asks:
            for first, second in (_MODELS, _MODELS[::-1]):
                key = digest("vote", source, name, caption.key, ask, of[first].key, of[second].key)
                yield VoteTask(key, name, caption.key, ask, first, (of[first], of[second]))


def _collect_votes(
    context: Context, table: str, name: str, settings: PairwiseSettings, tasks: Sequence[VoteTask]
) -> None:
    """Let the judge do the `tasks` that have no vote yet; its spending is recorded in any case."""
    server, run = settings.asked_server, context.run
    section = f"evaluation.sets.{name}"
    account = None
    if server is not None:
        account = open_account(run.path, section, server, f"{section}.pairwise.server", context.progress.say)
    # With a server, no more than its concurrent requests: a failure loses only those.
    batch = context.recipe.evaluation.batch if server is None else server.concurrency
    try:
        run_job(
            run,
            VOTES,
            [Unit(task.key, task) for task in tasks],
            PairwiseJob(settings, table, batch, account),
            engine=context.recipe.engine,
            at_once=batch,
            schema=Vote.schema,
            progress=context.progress,
            budget=context.recipe.failure_budget,
            unit="votes",
            title=f"{_STAGE}: {name}",
        )
    finally:
        if account is not None:
            account.note()
    release_memory()


def _skip_open_votes(context: Context, votes: Sequence[Vote]) -> None:
    """Record the votes without a choice as skipped, one entry for each set and reason, and report them.

    Raises:
        BudgetError: there are more than `failure_budget` allows.
    """
    skipped: dict[tuple[str, str], Skipped] = {}
    for vote in votes:
        if vote.reason is not None:
            before = skipped.get((vote.set, vote.reason))
            key, count = digest("open vote", vote.set, vote.reason), 1 if before is None else before.count + 1
            where = f"caption {vote.caption_key}, {vote.ask}"
            skipped[vote.set, vote.reason] = Skipped(VOTES, key, f"no vote: {vote.reason}", where, count)
    entries = list(skipped.values())
    for entry in entries:
        context.run.skip(entry.stage, entry.key, entry.reason, entry.where, entry.count)
    check_budget(_STAGE, entries, len(votes), context.recipe.failure_budget, "votes")
    report_skipped(context.progress, _STAGE, entries, len(votes), "votes")


def _describe_figures(ask: str, figures: Mapping[str, Any]) -> str:
    if not figures["prompts"]:
        return f"{ask}: no prompt has both votes"
    rate, low, high = (100 * figures[name] for name in ("adjusted", "low", "high"))
    counts = f"{figures['wins']} wins, {figures['ties']} ties, {figures['losses']} losses"
    return f"{ask}: the aligned model's adjusted win rate is {rate:.0f} % ({low:.0f} to {high:.0f}): {counts}"

"""Pairwise judging of an evaluation set: base against aligned image of each caption, both orders, every vote kept."""

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
class Game:
    """A match to be judged, whose vote is called `key`: the images of `first` and the other model, in that order."""

    key: str
    set: str
    caption_key: str
    ask: str
    first: str
    images: tuple[ImageToJudge, ImageToJudge]


@dataclass(frozen=True, slots=True)
class PairwiseJob:
    """A job that lets a judge compare images, `batch` matches at a time; `account` is that of a judge behind a server.

    That one, and its judge, stay in the leading process.
    """

    settings: PairwiseSettings
    images_table: str
    batch: int
    account: Account | None = None

    @property
    def source(self) -> str:
        return digest_judge_of_pairs(self.settings)

    @property
    def device(self) -> str:
        return self.settings.device if self.settings.asked_server is None else SERVER

    def reads(self, games: Sequence[Game]) -> tuple[str, Sequence[str]]:
        return self.images_table, list(dict.fromkeys(each.unit for game in games for each in game.images))

    def open(self, context: JobContext) -> BatchFunction[Game]:
        context.say(f"{_STAGE}: loading {self.settings.path or self.settings.type}")
        arguments = self.settings.model_dump(exclude={"server": ACCOUNT, "asks": True})
        judge: PairwiseJudge = catalog.build(
            "pairwise", arguments | ({} if self.account is None else {"meter": self.account.meter})
        )

        def work(games: Sequence[Game]) -> Iterator[Outcome]:
            """Yield the votes; if a cap is reached, those before it first, since they were paid for."""
            votes: dict[str, Outcome] = {}
            reached: CapReached | None = None
            try:
                context.fit.over(games, partial(self._compare_batch, context.run, judge, votes))
            except CapReached as failure:
                reached = failure
            if self.account is not None:
                self.account.note()
            for game in games:
                if reached is not None and game.key not in votes:
                    raise reached
                yield votes[game.key]

        return work

    def _compare_batch(
        self, run: Run, judge: PairwiseJudge, votes: dict[str, Outcome], games: Sequence[Game]
    ) -> Sequence[Game]:
        """Enter the vote on each game into `votes` by its key; a game with a broken image isn't shown."""
        files = {each.key: each for game in games for each in game.images}
        images = open_images(run, Tables(_STAGE, self.images_table, VOTES), list(files.values()))
        shown: list[tuple[Game, Match]] = []
        for game in games:
            first, second = (images[each.key] for each in game.images)
            if isinstance(first, Unscored) or isinstance(second, Unscored):
                fault = first if isinstance(first, Unscored) else second
                votes[game.key] = [make_vote(game, Unscored(str(getattr(fault, "reason", ""))))]
            else:
                shown.append((game, Match(game.images[0].prompt, game.ask, first, second)))
        reached: CapReached | None = None
        try:
            results = list(judge.compare([match for _, match in shown])) if shown else []
        except CapReached as failure:
            reached, results = failure, list(failure.results)
        votes |= {game.key: [make_vote(game, said)] for (game, _), said in zip(shown, results, strict=False)}
        if reached is not None:
            raise reached
        return games


def make_vote(game: Game, said: Ballot | Unscored) -> Vote:
    """Return the vote on a game; without a choice it has the reason why."""
    other = _MODELS[1 - _MODELS.index(game.first)]
    if isinstance(said, Ballot):
        choice = {"1": game.first, "2": other, "tie": "tie"}[said.choice]
        return Vote(game.key, game.set, game.caption_key, game.ask, game.first, choice, said.explanation, said.reply)
    reply = said.reply if isinstance(said, UnreadReply) else ""
    return Vote(game.key, game.set, game.caption_key, game.ask, game.first, None, "", reply, said.reason)


def judge_pairwise(
    context: Context,
    table: str,
    images: Mapping[str, ImageToJudge],
    sides: Sides,
    captions: Mapping[str, Sequence[Caption]],
) -> dict[str, Any]:
    """Judge every set of the recipe that is compared pairwise; return the figures of each by its name and ask.

    Args:
        table: the images'.
        images: by their keys.
        captions: of each set that has its own, by its name.

    Raises:
        ModelError: a judge can't be loaded. BudgetError: one left more votes open than `failure_budget` allows, or may
            cost no more.
    """
    recipe = context.recipe
    chosen = {name: each for name, each in recipe.evaluation.sets.items() if each.pairwise is not None}
    games = {
        name: list(_list_games(name, each.pairwise, captions[each.of], images, sides))
        for name, each in chosen.items()
        if each.pairwise is not None and each.of is not None
    }
    for name, of_set in games.items():
        settings = chosen[name].pairwise
        assert settings is not None
        _vote(context, table, name, settings, of_set)
    context.run.select(VOTES, [game.key for of_set in games.values() for game in of_set])
    votes = list(context.run.read(VOTES, Vote)) if games else []
    _skip_open_votes(context, votes)
    found = {}
    for name in games:
        found[name] = summarise_votes(
            [vote for vote in votes if vote.set == name], recipe.evaluation.resamples, recipe.seed
        )
        for ask, figures in found[name].items():
            context.progress.say(f"{_STAGE}: {name}: {_describe_figures(ask, figures)}")
    return found


def digest_judge_of_pairs(settings: PairwiseSettings) -> str:
    """Return the digest of a pairwise judge and of all settings that affect a single vote."""
    return digest_scorer("pairwise", settings.model_copy(update={"asks": ()}))


def _list_games(
    name: str,
    settings: PairwiseSettings,
    captions: Sequence[Caption],
    images: Mapping[str, ImageToJudge],
    sides: Sides,
) -> Iterator[Game]:
    source = digest(VERSIONS[_STAGE], digest_judge_of_pairs(settings))
    for caption in captions:
        if caption.key not in sides:
            continue
        of = {model: images[key] for model, key in zip(_MODELS, sides[caption.key], strict=True)}
        for ask in settings.asks:
            for first, second in (_MODELS, _MODELS[::-1]):
                key = digest("vote", source, name, caption.key, ask, of[first].key, of[second].key)
                yield Game(key, name, caption.key, ask, first, (of[first], of[second]))


def _vote(context: Context, table: str, name: str, settings: PairwiseSettings, games: Sequence[Game]) -> None:
    """Let the judge vote on those of `games` that it hasn't voted on; its cost is entered in any case."""
    server, run = settings.asked_server, context.run
    section = f"evaluation.sets.{name}"
    account = None
    if server is not None:
        account = open_account(run.path, section, server, f"{section}.pairwise.server", context.progress.say)
    # Of a server no more than what is asked at a time: what is under way is all that a failure can lose.
    batch = context.recipe.evaluation.batch if server is None else server.concurrency
    try:
        run_job(
            run,
            VOTES,
            [Unit(game.key, game) for game in games],
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
    """Enter the votes without a choice as skipped, an entry for each set and reason, and report them.

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
    every = list(skipped.values())
    for each in every:
        context.run.skip(each.stage, each.key, each.reason, each.where, each.count)
    check_budget(_STAGE, every, len(votes), context.recipe.failure_budget, "votes")
    report_skipped(context.progress, _STAGE, every, len(votes), "votes")


def _describe_figures(ask: str, figures: Mapping[str, Any]) -> str:
    if not figures["prompts"]:
        return f"{ask}: no prompt has both votes"
    rate, low, high = (100 * figures[name] for name in ("adjusted", "low", "high"))
    counts = f"{figures['wins']} wins, {figures['ties']} ties, {figures['losses']} losses"
    return f"{ask}: the aligned model's adjusted win rate is {rate:.0f} % ({low:.0f} to {high:.0f}): {counts}"

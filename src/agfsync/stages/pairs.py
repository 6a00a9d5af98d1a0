"""Stage 5: the best and the worst of each caption's candidates (Eq. 5 to 7), or the preferences of a pair set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agfsync import catalog
from agfsync.engine import Outcome, Sifted, Unit, process_units
from agfsync.errors import BudgetError
from agfsync.records import Pair, digest
from agfsync.stages import VERSIONS
from agfsync.stages.choosing import CandidateScores, Choice
from agfsync.stages.context import Context, dump_changes
from agfsync.stages.preferences import PREFERENCES, read_preferences
from agfsync.statistics import Mean
from agfsync.store.streams import Stream, group_by_column, join_in_order

_STAGE = "pairs"
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class ScoredCaption:
    """A caption's candidates in order of index, with their values and the keys of the scores that hold those."""

    caption_key: str
    values: Mapping[str, CandidateScores]
    score_keys: Sequence[str]


def run(context: Context) -> Mapping[str, Any]:
    """Pair every caption's best candidate with its worst.

    Raises:
        BudgetError: no caption gives a pair.
    """
    if context.recipe.pairs.source:
        return _take_preferences(context)
    settings = context.recipe.pairs.choose
    choice: Choice = catalog.build("choices", settings.model_dump())

    def work(captions: Sequence[ScoredCaption]) -> list[Outcome]:
        return [pair_candidates(each, choice) for each in captions]

    source = (_STAGE, VERSIONS[_STAGE], settings.type, dump_changes(settings))

    def units() -> Iterator[Unit[ScoredCaption]]:
        for each in _read_scored(context, list(settings.scorers)):
            yield Unit(digest(*source, each.caption_key, list(each.values), each.score_keys), each)

    captions = sum(1 for _ in group_by_column("caption_key", context.run.rows("candidates", ["caption_key"])))
    common = {"schema": Pair.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    process_units(context.run, _STAGE, Stream(captions, units), work, batch=_BATCH, **common)
    context.run.select(_STAGE, (unit.key for unit in units()))
    return _collect_notes(context, captions)


def _take_preferences(context: Context) -> Mapping[str, Any]:
    """Take the pair set's own pairs; its other entries, such as ties, are counted."""

    def units() -> Iterator[Unit[Sifted]]:
        return (Unit(digest(_STAGE, VERSIONS[_STAGE], key), sifted) for key, sifted in read_preferences(context))

    work: Callable[[Sequence[Sifted]], Sequence[Outcome]] = list
    common = {"schema": Pair.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    process_units(
        context.run, _STAGE, Stream(context.run.count(PREFERENCES), units), work, batch=_BATCH, unit="pairs", **common
    )
    context.run.select(_STAGE, (unit.key for unit in units()))
    return _collect_notes(context, len({row["caption_key"] for row in context.run.rows(_STAGE, ["caption_key"])}))


def pair_candidates(scored: ScoredCaption, choice: Choice) -> Sifted:
    """Return the caption's pairs; candidates that took no part are counted."""
    chosen, left_out = choice.choose(scored.values)
    pairs = [
        Pair(
            digest("pair", each.winner, each.loser),
            scored.caption_key,
            *(each.winner, each.loser, each.winner_score, each.loser_score, each.margin),
        )
        for each in chosen
    ]
    return Sifted(pairs, left_out)


def _read_scored(context: Context, scorers: Sequence[str]) -> Iterator[ScoredCaption]:
    """Yield every caption with its candidates, whichever generators drew them, and their scores by `scorers`."""
    columns = ["key", "candidate_key", "scorer", "value"]
    words = group_by_column("candidate_key", context.run.rows("scores", columns))
    candidates = context.run.rows("candidates", ["key", "caption_key"])
    judged = ({**row, "words": said or ()} for row, said in join_in_order(candidates, lambda row: row["key"], words))
    for caption, rows in group_by_column("caption_key", judged):
        words_of = {row["key"]: [word for word in row["words"] if word["scorer"] in scorers] for row in rows}
        yield ScoredCaption(
            caption,
            {key: {word["scorer"]: word["value"] for word in of} for key, of in words_of.items()},
            [word["key"] for of in words_of.values() for word in of],
        )


def _collect_notes(context: Context, captions: int) -> dict[str, Any]:
    margin = Mean()
    for row in context.run.rows(_STAGE, ["margin"]):
        margin.add(row["margin"])
    dropped = context.run.count_dropped(_STAGE)
    if context.recipe.pairs.source:
        for each in context.run.list_skipped("candidates"):
            dropped[each.reason] += each.count
    if not margin.count:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "no caption"
        see = "pairs.source" if context.recipe.pairs.source else "pairs.choose"
        raise BudgetError(f"pairs: no caption gives a pair ({reasons}): see {see}")
    return {"captions": captions, "pairs": margin.count, "mean_margin": margin.value, "dropped": dict(dropped)}

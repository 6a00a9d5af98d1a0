"""Stage 5: pairs of each caption's candidates, by the recipe's choice (Eq. 5 to 7) or from a pair set."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agfsync import catalog
from agfsync.choices import Choice, ChosenPair
from agfsync.choices.normalising import Normaliser, Spread
from agfsync.engine.jobs import Outcome, Sifted, Unit
from agfsync.engine.processing import process_units
from agfsync.errors import BudgetError
from agfsync.recipe import Recipe
from agfsync.records import Pair, digest
from agfsync.stages import VERSIONS
from agfsync.stages.context import Context, dump_changes
from agfsync.stages.preferences import PREFERENCES, read_preferences
from agfsync.stages.scored import ScoredCaption, is_in_share, read_scored_captions
from agfsync.statistics import Mean
from agfsync.store import Run
from agfsync.store.streams import Stream, group_by_column

_STAGE = "pairs"
_BATCH = 1000
CONTRIBUTIONS = "contributions"
"""The note with each judge's mean part of the margin, and the shares of pairs that it agrees with and opposes."""


@dataclass(slots=True)
class ContributionTally:
    """The judges' parts of the pairs' margins, added up pair by pair."""

    pairs: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    agreeing: Counter[str] = field(default_factory=Counter)
    opposing: Counter[str] = field(default_factory=Counter)

    def add(self, pair: ChosenPair) -> None:
        """Add a pair."""
        self.pairs += 1
        for judge, part in pair.parts.items():
            self.sums[judge] = self.sums.get(judge, 0.0) + part
            self.agreeing[judge] += part > 0
            self.opposing[judge] += part < 0

    def summarise(self) -> dict[str, dict[str, float]]:
        """Return each judge's mean part of the margin, and the shares in 0..1 of pairs that it agrees with and opposes.

        The means sum to the mean margin. A judge's part in pairs that it didn't take part in is 0.
        """
        return {
            judge: {
                "mean": total / self.pairs,
                "for": self.agreeing[judge] / self.pairs,
                "against": self.opposing[judge] / self.pairs,
            }
            for judge, total in self.sums.items()
        }


def run(context: Context) -> Mapping[str, Any]:
    """Make pairs of every caption's candidates; the notes have each judge's contribution to the margins.

    Raises:
        BudgetError: no caption gives a pair.
    """
    if context.recipe.pairs.source:
        return _import_preferences(context)
    choice, normaliser = make_choice(context.recipe), make_normaliser(context.run, context.recipe)

    def work(captions: Sequence[ScoredCaption]) -> list[Outcome]:
        return [pair_candidates(scored, choice) for scored in captions]

    source = _identify_choice(context.recipe, normaliser)

    def units() -> Iterator[Unit[ScoredCaption]]:
        for scored in read_normalised_captions(context.run, context.recipe, normaliser):
            yield Unit(digest(*source, scored.caption_key, list(scored.values), scored.score_keys), scored)

    drawn = group_by_column("caption_key", context.run.rows("candidates", ["caption_key"]))
    captions = sum(is_in_share(caption, context.recipe.pairs.share) for caption, _ in drawn)
    common = {"schema": Pair.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    process_units(context.run, _STAGE, Stream(captions, units), work, batch=_BATCH, **common)
    tally = ContributionTally()

    def keys() -> Iterator[str]:
        # Finished units don't store the parts of margins: choosing again costs less than storing them.
        for unit in units():
            for pair in choose_pairs(choice, unit.payload)[0]:
                tally.add(pair)
            yield unit.key

    context.run.select(_STAGE, keys())
    return _collect_notes(context, captions) | {CONTRIBUTIONS: tally.summarise()}


def make_choice(recipe: Recipe) -> Choice:
    """Return the choice of `recipe`."""
    choice: Choice = catalog.build("choices", recipe.pairs.choose.model_dump())
    return choice


def make_normaliser(run: Run, recipe: Recipe) -> Normaliser | None:
    """Return the normaliser of the recipe, with statistics of the run's scores if needed; None if it has none."""
    settings = recipe.pairs
    if settings.normalise == "none":
        return None
    if settings.normalise_over == "caption":
        return Normaliser(settings.normalise)
    values = {name: array("d") for name in settings.choose.scorers}
    for row in run.rows("scores", ["scorer", "value"]):
        if row["scorer"] in values and row["value"] is not None:
            values[row["scorer"]].append(row["value"])
    return Normaliser(settings.normalise, {name: Spread.of(of) for name, of in values.items()})


def _identify_choice(recipe: Recipe, normaliser: Normaliser | None) -> list[Any]:
    """Return the parts of a unit's key in addition to its caption, candidates and scores."""
    settings = recipe.pairs.choose
    identity = [_STAGE, VERSIONS[_STAGE], settings.type, dump_changes(settings)]
    return [*identity, normaliser.identity] if normaliser else identity


def _import_preferences(context: Context) -> Mapping[str, Any]:
    """Import the pair set's own pairs, and count its other entries, such as ties."""
    share = context.recipe.pairs.share

    def units() -> Iterator[Unit[Sifted]]:
        for key, sifted in read_preferences(context):
            if all(is_in_share(pair.caption_key, share) for pair in sifted.records if isinstance(pair, Pair)):
                yield Unit(digest(_STAGE, VERSIONS[_STAGE], key), sifted)

    work: Callable[[Sequence[Sifted]], Sequence[Outcome]] = list
    common = {"schema": Pair.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    count = context.run.count(PREFERENCES) if share == 1 else sum(1 for _ in units())
    process_units(context.run, _STAGE, Stream(count, units), work, batch=_BATCH, unit="pairs", **common)
    context.run.select(_STAGE, (unit.key for unit in units()))
    return _collect_notes(context, len({row["caption_key"] for row in context.run.rows(_STAGE, ["caption_key"])}))


def choose_pairs(choice: Choice, scored: ScoredCaption) -> tuple[list[ChosenPair], Counter[str]]:
    """Return the caption's pairs and the counted reasons of left-out candidates. Only `by-aspect` takes ties."""
    ties: Any = {"ties": scored.ties} if scored.ties else {}
    return choice.choose(scored.values, **ties)


def pair_candidates(scored: ScoredCaption, choice: Choice) -> Sifted:
    """Return the caption's pairs, and the counted reasons of candidates without a part."""
    chosen, left_out = choose_pairs(choice, scored)
    pairs = [
        Pair(
            key,
            scored.caption_key,
            *(each.winner, each.loser, each.winner_score, each.loser_score, each.margin, each.aspect),
        )
        for key, each in key_pairs(chosen).items()
    ]
    return Sifted(pairs, left_out)


def key_pairs(chosen: Sequence[ChosenPair]) -> dict[str, ChosenPair]:
    """Return a caption's pairs by their keys; repeated choices of the same two images are numbered."""
    counts: Counter[tuple[str, str]] = Counter()
    by_key = {}
    for pair in chosen:
        number = counts[pair.winner, pair.loser]
        by_key[digest("pair", pair.winner, pair.loser, *([number] if number else []))] = pair
        counts[pair.winner, pair.loser] += 1
    return by_key


def read_normalised_captions(run: Run, recipe: Recipe, normaliser: Normaliser | None) -> Iterator[ScoredCaption]:
    """Yield every caption in the share with its candidates and the normalised scores that the choice reads."""
    choose = recipe.pairs.choose
    # Choices by a total of several judges don't use one judge's contradictions.
    ties = choose.type == "by-aspect" and any(recipe.find_scorer(name).aspect_names for name in choose.scorers)
    for scored in read_scored_captions(run, choose.scorers, recipe.pairs.share, ties=ties):
        yield replace(scored, values=normaliser.normalise(scored.values)) if normaliser else scored


def find_parts(run: Run, recipe: Recipe, pair: Pair) -> Mapping[str, float]:
    """Return each judge's part of a pair's margin; empty if no judge chose it, or the scores have changed since."""
    if recipe.pairs.source:
        return {}
    try:
        captions = read_normalised_captions(run, recipe, None)
        scored = next(caption for caption in captions if caption.caption_key == pair.caption_key)
    except (StopIteration, ValueError):
        return {}  # The caption or one of its judges was removed after the pair was chosen.
    normaliser = make_normaliser(run, recipe)
    scored = replace(scored, values=normaliser.normalise(scored.values)) if normaliser else scored
    chosen = key_pairs(choose_pairs(make_choice(recipe), scored)[0]).get(pair.key)
    return chosen.parts if chosen and chosen.margin == pair.margin else {}


def _collect_notes(context: Context, captions: int) -> dict[str, Any]:
    margin = Mean()
    for row in context.run.rows(_STAGE, ["margin"]):
        margin.add(row["margin"])
    dropped = context.run.count_dropped(_STAGE)
    if context.recipe.pairs.source:
        for entry in context.run.list_skipped("candidates"):
            dropped[entry.reason] += entry.count
    if not margin.count:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "no caption"
        setting = "pairs.source" if context.recipe.pairs.source else "pairs.choose"
        raise BudgetError(f"pairs: no caption gives a pair ({reasons}): see {setting}")
    return {"captions": captions, "pairs": margin.count, "mean_margin": margin.value, "dropped": dict(dropped)}

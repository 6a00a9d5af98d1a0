"""The evaluation's verdict in one sentence, and reasons to doubt it.

A judge has risen (or fallen) if at least `FEWEST_FOR_VERDICT` captions were compared and its p-value, corrected (Holm)
over the judges that decide together, is at most 5 %. docs/evaluation.md states the error rates.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agfsync.formats import Selector
from agfsync.recipe import Recipe
from agfsync.stages.report.wording import ORDINARY, Wording
from agfsync.stages.selection import digest_judge, get_model_name
from agfsync.statistics import CONFIDENCE, FEWEST_FOR_VERDICT, adjust_holm, find_minimum_detectable

Role = Literal["independent", "unknown", "selected on", "shares a model", "unweighted"]
"""A judge's relation to the training pairs: it took no part in their selection; their selectors are unknown; it
selected them; it shares a model with a selector; it is a scorer of weight 0."""

Tone = Literal["better", "worse", "mixed", "unclear", "unjudged"]

LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class Standing:
    """One judge's summary over the held-out captions; values on 0..100, `win_rate`, its interval and `ties` in 0..1.

    `p_adjusted` is `p` corrected over the `family` judges that are tested together; None if it wasn't tested.
    """

    judge: str
    role: Role
    prompts: int
    base: float
    aligned: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    spread: float | None
    win_rate: float
    win_low: float
    win_high: float
    ties: float
    p_adjusted: float | None = None
    family: int = 1

    @property
    def is_tested(self) -> bool:
        return self.prompts >= FEWEST_FOR_VERDICT and self.p is not None

    @property
    def rose(self) -> bool:
        return self.difference > 0 and is_significant(self.p_adjusted)

    @property
    def fell(self) -> bool:
        return self.difference < 0 and is_significant(self.p_adjusted)

    @property
    def detectable(self) -> float | None:
        """The smallest gain that this many captions detect in 4 of 5 runs, given this judge's spread."""
        if self.spread is None:
            return None
        return find_minimum_detectable(self.spread, self.prompts, alpha=LEVEL / self.family)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The report's headline, and the sentences that justify it."""

    tone: Tone
    headline: str
    grounds: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reason to distrust a gain."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Excess:
    """The excess of `selecting`'s gain over `independent`'s, each in units of its own spread, with its interval."""

    selecting: Standing
    independent: Standing
    difference: float
    low: float
    high: float
    p_adjusted: float

    @property
    def is_ahead(self) -> bool:
        return self.selecting.rose and self.difference > 0 and is_significant(self.p_adjusted)


def is_significant(p_adjusted: float | None) -> bool:
    """Return True if a corrected p-value is significant."""
    return p_adjusted is not None and p_adjusted <= LEVEL


def find_role(judge: str, recipe: Recipe, selectors: Sequence[Selector] | None) -> Role:
    """Return the relation of `judge` to the pairs that `selectors` chose; None: the selectors are unknown.

    A judge with the name or the model of a selector isn't called independent, even if it may be another one.
    """
    if selectors is None:
        return "unknown"
    settings = recipe.scorers.get(judge)
    if judge in {selector.name for selector in selectors}:
        return "selected on"
    if settings and digest_judge(settings) in {selector.identity for selector in selectors}:
        return "selected on"
    if settings and get_model_name(settings) in {selector.model for selector in selectors if selector.model}:
        return "shares a model"
    has_weights = bool(selectors) and not recipe.pairs.source
    return "unweighted" if has_weights and judge in recipe.candidate_scorers else "independent"


def rank_judges(
    summary: Mapping[str, Mapping[str, Any]], recipe: Recipe, selectors: Sequence[Selector] | None
) -> list[Standing]:
    """Return the evaluation's summary by judge, independent judges first.

    The p-values are corrected (Holm) over the independent judges, and separately over the others.
    """
    standings = [
        Standing(judge=judge, role=find_role(judge, recipe, selectors), **figures) for judge, figures in summary.items()
    ]
    order: list[Role] = ["independent", "unknown", "selected on", "shares a model", "unweighted"]
    independent = [s for s in standings if s.role == "independent"]
    others = [s for s in standings if s.role != "independent"]
    return sorted([*_correct_family(independent), *_correct_family(others)], key=lambda s: order.index(s.role))


def _correct_family(family: Sequence[Standing]) -> list[Standing]:
    tested = {s.judge: s.p for s in family if s.is_tested}
    adjusted = adjust_holm(tested)
    return [replace(s, p_adjusted=adjusted.get(s.judge), family=max(1, len(tested))) for s in family]


def reach_verdict(judged: Sequence[Standing], words: Wording = ORDINARY) -> Verdict:
    """Return the verdict of the independent judges if there are any, else of all judges."""
    jury = [s for s in judged if s.role == "independent"] or list(judged)
    if not jury:
        return Verdict("unjudged", "Not evaluated yet", "No caption has been judged, so nothing can be said.")
    risen, fallen = [s for s in jury if s.rose], [s for s in jury if s.fell]
    first = next(iter([*risen, *fallen, *(s for s in jury if s.is_tested), *jury]))
    own = {"independent": "", "unknown": " by judges of unknown independence"}.get(first.role, " by its own scores")
    grounds = _describe_grounds(first, words)
    if not any(s.is_tested for s in jury):
        most = max(s.prompts for s in jury)
        headline = f"Too few captions to tell ({most} of {FEWEST_FOR_VERDICT})"
        return Verdict("unclear", headline, grounds)
    if risen and fallen:
        moves = f"{_describe_move(risen[0], words)}, {_describe_move(fallen[0], words)}"
        return Verdict("mixed", f"Mixed{own}: {moves}", grounds)
    if risen:
        return Verdict("better", f"{words.better}{own}: {_describe_move(first, words)} points", grounds)
    if fallen:
        return Verdict("worse", f"{words.worse}{own}: {_describe_move(first, words)} points", grounds)
    moved = f"{first.judge} {words.moved} {format_points(first.difference)} points"
    return Verdict("unclear", f"{words.unclear}: {moved}", grounds)


def compare_gains(judged: Sequence[Standing], contrasts: Sequence[Mapping[str, Any]]) -> list[Excess]:
    """Return the excess of each selecting judge's gain over each independent judge's, with corrected p-values."""
    selecting = {s.judge: s for s in judged if s.role == "selected on"}
    independent = {s.judge: s for s in judged if s.role == "independent"}
    oriented = {(c["judge"], c["other"]): (c["difference"], c["low"], c["high"], c) for c in contrasts} | {
        (c["other"], c["judge"]): (-c["difference"], _negate(c["high"]), _negate(c["low"]), c) for c in contrasts
    }
    pairs = {
        names: values
        for names, values in oriented.items()
        if names[0] in selecting and names[1] in independent and values[3]["prompts"] >= FEWEST_FOR_VERDICT
    }
    adjusted = adjust_holm({names: values[3]["p"] for names, values in pairs.items()})
    return [
        Excess(selecting[one], independent[other], difference, low, high, p)
        for (one, other), (difference, low, high, _) in pairs.items()
        if (p := adjusted[one, other]) is not None
    ]


def find_alarms(judged: Sequence[Standing], contrasts: Sequence[Mapping[str, Any]] = ()) -> list[Alarm]:
    """Return an alarm if a selecting judge rose while an independent one lagged behind, or while another one fell.

    A judge lags behind if it hasn't risen significantly and its gain is significantly smaller. The former alone would
    mean little, since a small evaluation misses many real gains.
    """
    ahead = [e for e in compare_gains(judged, contrasts) if e.is_ahead and not e.independent.rose]
    risen = [s for s in judged if s.role == "selected on" and s.rose]
    fallen = [s for s in judged if s.role != "independent" and s.fell]
    alarms = []
    if ahead:
        title = "Reward hacking? A score that the pairs were selected on gained more than the independent judge"
        text = " ".join(_describe_excess(each) for each in ahead)
        alarms.append(Alarm(title, f"{text} Trust the judge that nothing was selected on."))
    if risen and fallen:
        text = f"{_list_rises(risen)}, {_list_moves(fallen)}. Look at the worst losses before using this model."
        alarms.append(Alarm("One score was bought with another", text))
    return alarms


def find_collapse(diversity: Mapping[str, Any] | None) -> list[Alarm]:
    """Return an alarm if the images of a caption became significantly more alike."""
    if not diversity or diversity["prompts"] < FEWEST_FOR_VERDICT:
        return []
    if diversity["difference"] >= 0 or not is_significant(diversity["p"]):
        return []
    change, ends = format_points(diversity["difference"]), format_interval(diversity["low"], diversity["high"])
    text = (
        f"The mean distance of two images of a caption moved by {change} ({ends}) from {diversity['base']:.1f}, in "
        f"the embeddings of {diversity['embedding']}. A gain may have been paid for with diversity."
    )
    return [Alarm("The images of a caption became more alike", text)]


def describe_caution(
    judged: Sequence[Standing], contrasts: Sequence[Mapping[str, Any]] = (), words: Wording = ORDINARY
) -> str:
    """Return a caution on the judges' independence; empty if there is none."""
    if any(s.role == "independent" for s in judged):
        ahead = [e for e in compare_gains(judged, contrasts) if e.is_ahead and e.independent.rose]
        behind = "So a part of the gain may be the scores’ own: go by the independent judge’s."
        return " ".join([*(_describe_excess(each) for each in ahead), behind]) if ahead else ""
    if any(s.role == "unknown" for s in judged):
        return (
            "What chose the pairs isn’t known, so no judge is called independent: a judge that took part in choosing "
            "them can rise without better images. Pair sets that agfsync exports say which scorers chose."
        )
    if not judged:
        return ""
    if words.compares:
        return (
            "No independent judge took part: a model was trained to please every score here, so a difference can’t be "
            "told from reward hacking. Name another judge."
        )
    return (
        "No independent judge took part: every score here could be selected on in making the pairs, so a gain can’t "
        "be told from reward hacking. Name one under scorers that pairs.choose doesn't read."
    )


def format_points(value: float) -> str:
    """Return a signed difference, as in +6.4 or −0.3; with a second decimal if one would round it to 0."""
    text = f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.2f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def format_interval(low: float | None, high: float | None) -> str:
    """Return an interval of differences, as in +3.2 to +8.3."""
    return "none, too few captions" if low is None or high is None else f"{format_points(low)} to {format_points(high)}"


def format_p(p: float | None) -> str:
    """Return a p-value, as in 0.03 or < 0.001; a dash if nothing was tested."""
    if p is None:
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def _negate(value: float | None) -> float | None:
    return None if value is None else -value


def _describe_move(standing: Standing, words: Wording) -> str:
    return f"{standing.judge} {words.higher if standing.rose else words.lower} {abs(standing.difference):.1f}"


def _describe_grounds(decisive: Standing, words: Wording) -> str:
    """Return the grounds of the headline: interval, corrected p-value and detectable gain of its first judge."""
    nature = {
        "independent": "nothing was selected on it",
        "unknown": "whether the pairs were selected on it isn’t known",
    }.get(decisive.role, "training could select on it")
    nature = f"; {nature}" if words.shows_roles else ""
    sentences = [
        f"Mean difference over {decisive.prompts:,} {words.captions}, {words.both} drawing each from the same seed.",
        f"95 % interval of {decisive.judge}: {format_interval(decisive.low, decisive.high)}{nature}.",
    ]
    if decisive.p_adjusted is not None:
        number = f"Holm’s correction over {decisive.family} judges" if decisive.family > 1 else "one judge decides"
        sentences.append(f"p = {format_p(decisive.p_adjusted)} ({number}).".replace("= <", "<"))
    if decisive.detectable:
        sentences.append(f"By its spread, a gain of {decisive.detectable:.1f} points shows in 4 of 5 such evaluations.")
    return " ".join(sentences)


def _list_rises(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} rose by {s.difference:.1f} ({format_interval(s.low, s.high)})" for s in standings]
    return ", ".join(words)


def _list_moves(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} moved by {format_points(s.difference)} ({format_interval(s.low, s.high)})" for s in standings]
    return "while " + " and ".join(words)


def _describe_excess(excess: Excess) -> str:
    return (
        f"{_list_rises([excess.selecting])}, {_list_moves([excess.independent])}. In units of each judge’s own spread "
        f"{excess.selecting.judge} gained {excess.difference:.2f} more "
        f"({_format_signed(excess.low)} to {_format_signed(excess.high)}, corrected p {format_p(excess.p_adjusted)})."
    )


def _format_signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")

"""What the evaluation says in one sentence, and where it should be doubted.

A judge has risen (or fallen) where the whole 95 % interval of its mean difference lies above (or below) 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agfsync.config import Recipe

Role = Literal["independent", "trained on", "weightless"]
"""A judge nothing trains or selects on; a scorer that chose the pairs; a scorer whose weight is 0."""

Tone = Literal["better", "worse", "unclear", "unjudged"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One judge's summary over the held-out captions; values on 0..100, `win_rate` in 0..1."""

    judge: str
    role: Role
    prompts: int
    base: float
    aligned: float
    difference: float
    low: float
    high: float
    win_rate: float

    @property
    def rose(self) -> bool:
        return self.low > 0

    @property
    def fell(self) -> bool:
        return self.high < 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The page's first line, and the sentence that says what it rests on."""

    tone: Tone
    headline: str
    grounds: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reason to distrust a gain."""

    title: str
    text: str


def role_of(judge: str, recipe: Recipe) -> Role:
    """What `judge` is to this run's training."""
    if judge not in recipe.scores.scorers:
        return "independent"
    return "trained on" if recipe.pairs.weights.get(judge) else "weightless"


def standings(summary: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> list[Standing]:
    """The evaluation's summary by judge, independent judges first."""
    found = [Standing(judge=judge, role=role_of(judge, recipe), **figures) for judge, figures in summary.items()]
    order: list[Role] = ["independent", "trained on", "weightless"]
    return sorted(found, key=lambda s: order.index(s.role))


def verdict(judged: Sequence[Standing]) -> Verdict:
    """Did the model get better? By the independent judges where there are any, else by the scores it was trained on."""
    jury = [s for s in judged if s.role == "independent"] or list(judged)
    if not jury:
        return Verdict("unjudged", "Not evaluated yet", "No held-out caption has been judged, so nothing can be said.")
    independent = jury[0].role == "independent"
    fallen, risen = [s for s in jury if s.fell], [s for s in jury if s.rose]
    decisive = fallen or risen or jury
    tone: Tone = "worse" if fallen else "better" if risen else "unclear"
    return Verdict(tone, _headline(tone, decisive[0], independent), _grounds(decisive[0], independent))


def alarms(judged: Sequence[Standing]) -> list[Alarm]:
    """Where a trained-on score rose and an independent judge did not follow, or another score paid for it."""
    risen = [s for s in judged if s.role == "trained on" and s.rose]
    if not risen:
        return []
    unmoved = [s for s in judged if s.role == "independent" and not s.rose]
    fallen = [s for s in judged if s.role != "independent" and s.fell]
    found = []
    if unmoved:
        title = "Reward hacking? The score that was trained on rose, the independent judge did not"
        found.append(Alarm(title, f"{_list(risen)}, {_while(unmoved)}. Trust the judge that nothing was selected on."))
    if fallen:
        title = "One score was bought with another"
        found.append(
            Alarm(title, f"{_list(risen)}, {_while(fallen)}. Look at the worst losses before using this model.")
        )
    return found


def caution(judged: Sequence[Standing]) -> str:
    """What the reader should know where no independent judge took part; empty where one did."""
    if not judged or any(s.role == "independent" for s in judged):
        return ""
    return (
        "No independent judge took part: every score here could be selected on in making the pairs, so a gain can’t "
        "be told from reward hacking. Name one under evaluation.judges."
    )


def points(value: float) -> str:
    """A signed difference, as in +6.4 or −0.3."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _headline(tone: Tone, decisive: Standing, independent: bool) -> str:
    moved = f"{decisive.judge} {'rose' if decisive.rose else 'fell'} by {abs(decisive.difference):.1f} points"
    if tone == "unclear":
        return f"No clear change: {decisive.judge} {points(decisive.difference)} points, and the interval holds 0"
    if tone == "worse":
        return f"Worse: {moved}"
    return f"Better: {moved}" if independent else f"Better by its own scores: {moved}"


def _grounds(decisive: Standing, independent: bool) -> str:
    judge = (
        "a judge that nothing was trained or selected on" if independent else "a score that training could select on"
    )
    return (
        f"Mean difference over {decisive.prompts:,} held-out captions, base and aligned model drawing each from the "
        f"same seed; 95 % interval {points(decisive.low)} to {points(decisive.high)}, by {judge}."
    )


def _list(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} rose by {s.difference:.1f} ({points(s.low)} to {points(s.high)})" for s in standings]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _while(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} moved by {points(s.difference)} ({points(s.low)} to {points(s.high)})" for s in standings]
    return "while " + " and ".join(words)

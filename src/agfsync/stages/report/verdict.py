"""What the evaluation says in one sentence, and where it should be doubted.

A judge has risen (or fallen) where the whole 95 % interval of its mean difference lies above (or below) 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agfsync.config import Recipe

Role = Literal["independent", "trained on", "unweighted"]
"""A judge nothing trains or selects on; a scorer that chose the pairs; a scorer whose weight is 0."""

Tone = Literal["better", "worse", "mixed", "unclear", "unjudged"]


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
    if recipe.pairs.source or judge not in recipe.scores.scorers:
        return "independent"
    return "trained on" if recipe.pairs.weights.get(judge) else "unweighted"


def standings(summary: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> list[Standing]:
    """The evaluation's summary by judge, independent judges first."""
    found = [Standing(judge=judge, role=role_of(judge, recipe), **figures) for judge, figures in summary.items()]
    order: list[Role] = ["independent", "trained on", "unweighted"]
    return sorted(found, key=lambda s: order.index(s.role))


def verdict(judged: Sequence[Standing]) -> Verdict:
    """Did the model get better? By the independent judges where there are any, else by the scores it was trained on."""
    jury = [s for s in judged if s.role == "independent"] or list(judged)
    if not jury:
        return Verdict("unjudged", "Not evaluated yet", "No held-out caption has been judged, so nothing can be said.")
    independent = jury[0].role == "independent"
    risen, fallen = [s for s in jury if s.rose], [s for s in jury if s.fell]
    if risen and fallen:
        return Verdict("mixed", f"Mixed: {_moved(risen[0])}, {_moved(fallen[0])}", _grounds(risen[0], independent))
    if risen:
        own = "" if independent else " by its own scores"
        return Verdict("better", f"Better{own}: {_moved(risen[0])} points", _grounds(risen[0], independent))
    if fallen:
        return Verdict("worse", f"Worse: {_moved(fallen[0])} points", _grounds(fallen[0], independent))
    still = f"No clear change: {jury[0].judge} moved by {points(jury[0].difference)} points"
    return Verdict("unclear", still, _grounds(jury[0], independent))


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
    """A signed difference, as in +6.4 or −0.3; with a second digit where one would round it to nothing."""
    text = f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.2f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _moved(standing: Standing) -> str:
    return f"{standing.judge} {'rose' if standing.rose else 'fell'} by {abs(standing.difference):.1f}"


def _grounds(decisive: Standing, independent: bool) -> str:
    """What the headline rests on: the interval of the judge that it names first."""
    nature = "nothing was trained or selected on it" if independent else "training could select on it"
    return (
        f"Mean difference over {decisive.prompts:,} held-out captions, base and aligned model drawing each from the "
        f"same seed. 95 % interval of {decisive.judge}: {points(decisive.low)} to {points(decisive.high)}; {nature}."
    )


def _list(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} rose by {s.difference:.1f} ({points(s.low)} to {points(s.high)})" for s in standings]
    return ", ".join(words)


def _while(standings: Iterable[Standing]) -> str:
    words = [f"{s.judge} moved by {points(s.difference)} ({points(s.low)} to {points(s.high)})" for s in standings]
    return "while " + " and ".join(words)

"""Renders the evidence as one self-contained HTML page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from agfsync import __version__
from agfsync.stages import list_needed_stages
from agfsync.stages.dataset import THRESHOLDS
from agfsync.stages.report.annotations import describe_overall, list_annotators
from agfsync.stages.report.checked import find_doubtful_judges, read_check
from agfsync.stages.report.evidence import Evidence
from agfsync.stages.report.figures import Direction, Effect, format_compact, make_curves, make_forest, make_histogram
from agfsync.stages.report.galleries import Card
from agfsync.stages.report.training import Panel, describe_errors, describe_watch, plot_training
from agfsync.stages.report.verdict import (
    Alarm,
    describe_caution,
    find_alarms,
    find_collapse,
    format_interval,
    format_p,
    format_points,
    is_significant,
    rank_judges,
    reach_verdict,
)
from agfsync.stages.report.wording import find_wording, list_models
from agfsync.statistics import FEWEST_FOR_VERDICT, adjust_holm, compute_win_shares, correlate_values

INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Summary = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Galleries:
    """The cards of each gallery, and their images as data URIs; unreadable ones are absent."""

    gains: Sequence[Card] = ()
    losses: Sequence[Card] = ()
    pairs: Sequence[Card] = ()
    uris: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contribution:
    """A judge's mean part of the pairs' margin, its share of the mean margin, and the shares of pairs for and against.

    Shares are in 0..1; only the share of the margin is below 0 for a judge that mostly preferred the losers.
    """

    judge: str
    mean: float
    share: float
    agrees: float
    opposes: float


@dataclass(frozen=True, slots=True)
class StageLine:
    """A line of the section "What was run"; `share` is its part of the total time, in 0..100."""

    name: str
    skipped: int = 0
    seconds: float | None = None
    share: float = 0.0
    notes: str = ""


def render_page(evidence: Evidence, galleries: Galleries, lead: str | None) -> str:
    """Return the page; `lead` is the judge that ranks its galleries. All texts are escaped."""
    return make_environment().get_template("page.html.j2").render(_collect_context(evidence, galleries, lead))


def make_environment(*packages: str) -> Environment:
    """Return an environment with the templates of `packages` and of the report, and the report's filters."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "") for package in (*packages, "agfsync.stages.report")]),
        autoescape=True,
        finalize=show_invisible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": format_points,
        "duration": format_time,
        "compact": format_compact,
        "day": format_day,
        "setting": format_setting,
        "p_value": format_p,
        "interval": lambda ends: format_interval(*ends),
    }
    return environment


def show_invisible(value: Any) -> Any:
    """Return `value`; in a text, each invisible character is replaced by its code point, as in [U+202E].

    Control characters can't be seen, and those that change the direction of writing would reorder the page.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return INVISIBLE.sub(lambda character: f"[U+{ord(character[0]):04X}]", value)


def format_time(seconds: float) -> str:
    """Return a readable duration: 0.4 s, 37 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def format_day(moment: str) -> str:
    """Return the date of an ISO time."""
    when = datetime.fromisoformat(moment)
    return f"{when.day} {when:%B %Y}"


def format_setting(value: Any) -> str:
    """Return a readable setting of a method: a number, a type's name, or scorers with their weights.

    >>> format_setting(500.0), format_setting({"type": "spacy"}), format_setting({"vqa": 0.5, "clip": 1.0})
    ('500', 'spacy', 'vqa 0.5 clip 1')
    """
    if isinstance(value, Mapping):
        return str(value["type"]) if "type" in value else " ".join(f"{k} {format_setting(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _collect_context(evidence: Evidence, galleries: Galleries, lead: str | None) -> dict[str, Any]:
    summary = evidence.finished["evaluation"].notes if "evaluation" in evidence.finished else {}
    words = find_wording(evidence.recipe)
    judged = rank_judges(summary.get("judges", {}), evidence.recipe, evidence.selectors)
    contrasts = summary.get("contrasts", ())
    ended = [stage.ended for stage in evidence.finished.values()]
    return {
        "version": __version__,
        "recipe": evidence.recipe,
        "recipe_yaml": evidence.recipe_yaml,
        "ended": max(ended) if ended else "",
        "finished": evidence.finished,
        "words": words,
        "models": list_models(evidence.recipe),
        "verdict": reach_verdict(judged, words),
        "alarms": [
            *find_alarms(judged, contrasts),
            *find_collapse(summary.get("diversity")),
            *_find_doubts(evidence),
        ],
        "spread": {name: summary[name] for name in ("diversity", "cmmd") if name in summary},
        "caution": describe_caution(judged, contrasts, words),
        "controls": _list_controls(evidence),
        "fewest": FEWEST_FOR_VERDICT,
        "judged": judged,
        "judges": make_forest([_make_effect(s.judge, asdict(s)) for s in judged]) if judged else None,
        "other_sets": [
            (name, rank_judges(of_set["judges"], evidence.recipe, evidence.selectors))
            for name, of_set in summary.get("sets", {}).items()
        ],
        "pairwise": summary.get("pairwise", {}),
        "agreement": _correlate_judges(evidence, lead),
        "lead": lead,
        "categories": _plot_by_part(summary.get("categories", {}), [s.judge for s in judged]),
        "element_types": _plot_by_part(summary.get("element_types", {}), [s.judge for s in judged]),
        "galleries": galleries,
        "histograms": _plot_histograms(evidence),
        "pairs": evidence.pairs,
        "contributions": _list_contributions(evidence),
        "annotators": list_annotators(evidence),
        "overall": describe_overall(evidence),
        "truth": evidence.truth,
        "accuracies": _list_accuracies(evidence),
        "data": evidence.data,
        "utilisation": _plot_utilisation(evidence.data.get("utilisation", {})),
        "training": plot_training(evidence),
        "stopped": describe_watch(evidence),
        "remark": describe_errors(evidence.steps),
        "measured": summary.get("measured", {}),
        "polished": evidence.finished["captions"].notes.get("polish") if "captions" in evidence.finished else None,
        "left_out": evidence.left_out,
        "stages": _list_stages(evidence),
        "seconds": sum(stage.seconds for stage in evidence.finished.values()),
    }


def _find_doubts(evidence: Evidence) -> list[Alarm]:
    checks = [read_check(Path(file)) for file in evidence.recipe.report.checks]
    return find_doubtful_judges(evidence.selectors, checks)


def _plot_by_part(summary: Mapping[str, Summary], judges: Sequence[str]) -> list[Panel]:
    """Return a forest plot for each judge, with the parts in the order of the first judge's differences."""
    panels: list[Panel] = []
    order: list[str] = []
    for judge, parts in ((judge, summary[judge]) for judge in judges if summary.get(judge)):
        order = order or sorted(parts, key=lambda part: -float(parts[part]["difference"]))
        rows = [part for part in order if part in parts] + [part for part in parts if part not in order]
        panels.append(Panel(judge, make_forest([_make_effect(part, parts[part]) for part in rows])))
    return panels


def _make_effect(name: str, figures: Mapping[str, Any]) -> Effect:
    difference, p = figures["difference"], figures["p_adjusted"]
    tone: Direction = ("up" if difference > 0 else "down") if is_significant(p) and difference else "flat"
    return Effect(name, difference, figures["low"], figures["high"], tone, f"{figures['prompts']:,}", p)


def _correlate_judges(evidence: Evidence, lead: str | None) -> dict[str, float]:
    """Return the correlation of each judge's gains with the leading judge's, caption by caption."""
    gains: dict[str, dict[str, float]] = {}
    for c in evidence.comparisons:
        if not c.element_type:
            gains.setdefault(c.judge, {})[c.caption_key] = c.aligned - c.base
    leading = gains.pop(lead, {}) if lead else {}
    correlations = {}
    for judge, values in gains.items():
        shared = [key for key in values if key in leading]
        r = correlate_values([values[key] for key in shared], [leading[key] for key in shared])
        if r is not None:
            correlations[judge] = r
    return correlations


def _list_contributions(evidence: Evidence) -> list[Contribution]:
    """Return each judge's contribution to the choice; none if the notes of the pairs don't have them."""
    notes = evidence.finished["pairs"].notes.get("contributions", {}) if "pairs" in evidence.finished else {}
    margin = sum(figures["mean"] for figures in notes.values())
    return [
        Contribution(judge, figures["mean"], figures["mean"] / margin, figures["for"], figures["against"])
        for judge, figures in notes.items()
        if margin
    ]


def _plot_histograms(evidence: Evidence) -> list[Panel]:
    """Return each scorer's histogram of all candidates, of the winners and of the losers."""
    panels = []
    for scorer in evidence.recipe.candidate_scores:
        candidates, paired = evidence.scores.every.get(scorer, ()), evidence.scores.paired
        both = [
            (paired[p.winner_key][scorer], paired[p.loser_key][scorer])
            for p in evidence.pairs
            if scorer in paired.get(p.winner_key, {}) and scorer in paired.get(p.loser_key, {})
        ]
        winners, losers = [w for w, _ in both], [loser for _, loser in both]
        if figure := make_histogram({"candidates": candidates, "losers": losers, "winners": winners}):
            panels.append(Panel(scorer, figure, _describe_winners(losers, winners) if both else ""))
    return panels


def _plot_utilisation(shares: Mapping[str, Sequence[float]]) -> list[Panel]:
    """Return, for each scorer, the share of the captions with a candidate of at least a score, in percent."""
    curves = {name: make_curves(THRESHOLDS, {"share": [100 * s for s in of]}) for name, of in shares.items()}
    text = "Score to the right, % of the captions upwards."
    return [Panel(name, curve, text) for name, curve in curves.items() if curve]


def _describe_winners(losers: Sequence[float], winners: Sequence[float]) -> str:
    """Return a sentence with the shares of pairs in which the winner scores higher, lower and the same."""
    higher, equal, lower = (f"{100 * share:.0f} %" for share in compute_win_shares(losers, winners))
    return f"The winner scores higher in {higher} of the pairs, lower in {lower}, and the same in {equal}."


def _list_accuracies(evidence: Evidence) -> list[Mapping[str, Any]]:
    """Return a row for each judge of the reward model's test pairs: on all pairs first, then by aspect."""
    table = evidence.finished["reward"].notes["accuracy"] if "reward" in evidence.finished else {}
    return [
        {"aspect": aspect, "judge": judge, **figures}
        for aspect, judges in table.items()
        for judge, figures in judges.items()
        if "accuracy" in figures
    ]


def _list_controls(evidence: Evidence) -> list[Mapping[str, Any]]:
    """Return a row for each control and judge, for the table of controls.

    The p-values are corrected (Holm) over the rows with enough captions for a verdict; the others have none.
    """
    if "controls" not in evidence.finished:
        return []
    notes = evidence.finished["controls"].notes["controls"]
    rows = {(control, judge): f for control, judges in notes.items() for judge, f in judges.items() if f["prompts"]}
    tested = {key: f["p"] if f["prompts"] >= FEWEST_FOR_VERDICT else None for key, f in rows.items()}
    adjusted = adjust_holm(tested)
    return [
        {**f, "control_mean": f["control"], "control": key[0], "judge": key[1], "p_adjusted": adjusted.get(key)}
        for key, f in rows.items()
    ]


def _list_stages(evidence: Evidence) -> list[StageLine]:
    total = sum(stage.seconds for stage in evidence.finished.values()) or 1.0
    lines = []
    compares = evidence.recipe.given is not None
    for name in (stage.name for stage in list_needed_stages(evidence.recipe)[:-1]):
        if compares and name == "training":
            continue  # a comparison trains nothing
        ended = evidence.finished.get(name)
        if ended is None:
            lines.append(StageLine(name))
            continue
        share = round(100 * ended.seconds / total, 1)
        notes = _format_notes(ended.notes) or (f"rows {ended.rows:,}" if ended.rows else "")
        lines.append(StageLine(name, ended.skipped, ended.seconds, share, notes))
    return lines


def _format_notes(notes: Mapping[str, Any]) -> str:
    """Return the scalar figures among a stage's notes, as in "pairs 120, ties 8"."""
    scalars = {key: value for key, value in notes.items() if isinstance(value, int | float | str)}
    parts = (f"{key.replace('_', ' ')} {_format_figure(value)}" for key, value in scalars.items())
    return ", ".join(parts)


def _format_figure(value: float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"

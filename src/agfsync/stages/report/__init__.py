"""Stage 8: one self-contained page that says whether the model got better, where, why, and whether to believe it."""

from collections.abc import Mapping, Sequence
from typing import Any

from agfsync.files.atomic import write_atomic
from agfsync.records import Pair
from agfsync.stages.context import Context
from agfsync.stages.report.evidence import Drawn, Evidence, gather, judged, pictures, read_questions
from agfsync.stages.report.galleries import Card, card, data_uris, extremes, spread
from agfsync.stages.report.page import Galleries, render
from agfsync.stages.report.verdict import role_of
from agfsync.store import Run

_FILE = "report.html"


def run(context: Context) -> Mapping[str, Any]:
    """Writes `report.html` of the run as far as it got; the notes say where it lies and how large it is."""
    evidence = gather(context.run, context.recipe)
    lead = _lead(evidence)
    page = render(evidence, _galleries(context.run, evidence, lead), lead).encode()
    write_atomic(context.run.path / _FILE, page)
    return {"file": _FILE, "bytes": len(page)}


def _lead(evidence: Evidence) -> str | None:
    """Return the judge that ranks the galleries: the first independent one that has judged anything, else the first."""
    seen = {c.judge for c in evidence.comparisons}
    return next((judge for judge in _order_judges(evidence) if judge in seen), None)


def _order_judges(evidence: Evidence) -> list[str]:
    """Return the scorers of the evaluation, the independent ones first."""
    names = list(evidence.recipe.evaluation_scorers)
    return sorted(names, key=lambda name: role_of(name, evidence.recipe, evidence.selectors) != "independent")


def _galleries(run: Run, evidence: Evidence, lead: str | None) -> Galleries:
    gains, losses = extremes(evidence, lead, evidence.recipe.report.examples)
    pairs = spread(evidence.pairs, evidence.recipe.report.examples)
    drawn = {evidence.drawn[key].base for key in gains + losses} | {
        evidence.drawn[key].aligned for key in gains + losses
    }
    chosen = {pair.winner_key for pair in pairs} | {pair.loser_key for pair in pairs}
    images = {
        **(pictures(run, "evaluation_images", drawn) if drawn else {}),
        **(pictures(run, "candidates", chosen) if chosen else {}),
    }
    return Galleries(
        gains=_compared(run, evidence, gains, lead),
        losses=_compared(run, evidence, losses, lead),
        pairs=_paired(run, evidence, pairs),
        uris=data_uris(images),
    )


def _compared(run: Run, evidence: Evidence, captions: Sequence[str], lead: str | None) -> list[Card]:
    """Cards of held-out captions: the base's picture and the aligned model's."""
    sides = {caption: evidence.drawn[caption] for caption in captions}
    found = judged(run, "evaluation_scores", [key for side in sides.values() for key in (side.base, side.aligned)])
    asked = read_questions(run, captions)
    return [card(evidence, caption, sides[caption], found, asked, _order_judges(evidence)) for caption in captions]


def _paired(run: Run, evidence: Evidence, pairs: Sequence[Pair]) -> list[Card]:
    """Cards of training pairs: the loser and the winner."""
    found = judged(run, "scores", [key for pair in pairs for key in (pair.loser_key, pair.winner_key)])
    asked = read_questions(run, [pair.caption_key for pair in pairs])
    scorers = list(evidence.recipe.candidate_scorers)
    weighed = evidence.recipe.pairs.source is None
    return [
        card(
            evidence,
            pair.caption_key,
            Drawn(pair.loser_key, pair.winner_key),
            found,
            asked,
            scorers,
            totals=(pair.loser_score, pair.winner_score) if weighed else None,
        )
        for pair in pairs
    ]

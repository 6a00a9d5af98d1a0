"""Stage 8: one self-contained page on the model's gains: where, why, and how reliable they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agfsync.files.atomic import write_atomic
from agfsync.records import Pair
from agfsync.stages.context import Context
from agfsync.stages.report.evidence import (
    Evidence,
    ImageKeys,
    gather_evidence,
    read_images,
    read_judgements,
    read_questions,
)
from agfsync.stages.report.galleries import Card, ScoreRow, find_extremes, make_card, make_data_uris, spread_pairs
from agfsync.stages.report.page import Galleries, render_page
from agfsync.stages.report.truth import compare_with_truth
from agfsync.stages.report.verdict import find_role
from agfsync.store import Run

_FILE = "report.html"


def run(context: Context) -> Mapping[str, Any]:
    """Write `report.html` on the stages that have finished; return its name and size."""
    evidence = gather_evidence(context.run, context.recipe)
    evidence = replace(evidence, truth=compare_with_truth(context.run, evidence))
    lead = _choose_lead(evidence)
    page = render_page(evidence, _make_galleries(context.run, evidence, lead), lead).encode()
    write_atomic(context.run.path / _FILE, page)
    return {"file": _FILE, "bytes": len(page)}


def _choose_lead(evidence: Evidence) -> str | None:
    """Return the judge that ranks the galleries: the first independent one that has judged anything, else the first."""
    judges = {c.judge for c in evidence.comparisons}
    return next((judge for judge in _order_judges(evidence) if judge in judges), None)


def _order_judges(evidence: Evidence) -> list[str]:
    """Return the scorers of the evaluation, the independent ones first."""
    names = list(evidence.recipe.evaluation_scorers)
    return sorted(names, key=lambda name: find_role(name, evidence.recipe, evidence.selectors) != "independent")


def _make_galleries(run: Run, evidence: Evidence, lead: str | None) -> Galleries:
    gains, losses = find_extremes(evidence, lead, evidence.recipe.report.examples)
    pairs = spread_pairs(evidence.pairs, evidence.recipe.report.examples)
    drawn = {evidence.drawn[key].base for key in gains + losses} | {
        evidence.drawn[key].aligned for key in gains + losses
    }
    chosen = {pair.winner_key for pair in pairs} | {pair.loser_key for pair in pairs}
    images = {
        **(read_images(run, "evaluation_images", drawn) if drawn else {}),
        **(read_images(run, "candidates", chosen) if chosen else {}),
    }
    return Galleries(
        gains=_make_comparison_cards(run, evidence, gains, lead),
        losses=_make_comparison_cards(run, evidence, losses, lead),
        pairs=_make_pair_cards(run, evidence, pairs),
        uris=make_data_uris(images),
    )


def _make_comparison_cards(run: Run, evidence: Evidence, captions: Sequence[str], lead: str | None) -> list[Card]:
    """Return cards of held-out captions, each with the base's and the aligned model's image."""
    sides = {caption: evidence.drawn[caption] for caption in captions}
    judgements = read_judgements(
        run, "evaluation_scores", [key for side in sides.values() for key in (side.base, side.aligned)]
    )
    questions = read_questions(run, captions)
    order = _order_judges(evidence)
    return [make_card(evidence, caption, sides[caption], judgements, questions, order) for caption in captions]


def _make_pair_cards(run: Run, evidence: Evidence, pairs: Sequence[Pair]) -> list[Card]:
    """Return cards of training pairs, each with the loser and the winner."""
    judgements = read_judgements(run, "scores", [key for pair in pairs for key in (pair.loser_key, pair.winner_key)])
    questions = read_questions(run, [pair.caption_key for pair in pairs])
    scorers = evidence.recipe.candidate_scores
    total = "" if evidence.recipe.pairs.source else evidence.recipe.pairs.choose.total
    return [
        make_card(
            evidence,
            pair.caption_key,
            ImageKeys(pair.loser_key, pair.winner_key),
            judgements,
            questions,
            scorers,
            total=ScoreRow(total, pair.loser_score, pair.winner_score) if total else None,
        )
        for pair in pairs
    ]

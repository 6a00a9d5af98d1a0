"""Stage 4: every scorer's score of every candidate (Eq. 2 to 4), unweighted, with one model in memory at a time.

Annotators, which compare all candidates of a caption, come first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agfsync.recipe.scorers import AnnotatorSettings
from agfsync.stages.annotating import ANNOTATORS, CandidateGroup, Groups, annotate_candidates
from agfsync.stages.context import Context, read_captions_to_draw
from agfsync.stages.judging import ImageToJudge, OtherScores, Tables, judge_images
from agfsync.stages.spending import sum_judge_spending
from agfsync.store.streams import Reiterable, Stream, group_by_column, join_in_order

_STAGE = "scores"


def run(context: Context) -> Mapping[str, Any]:
    """Score the candidates that have no score yet; return the notes of `judge_images`, the spending and the checks.

    The images of a pair set aren't scored.

    Raises:
        ModelError: a scorer can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    tables = Tables(stage=_STAGE, images="candidates", scores=_STAGE)
    groups: Groups = ()
    candidates: Reiterable[ImageToJudge] = ()
    if not context.recipe.pairs.source:
        groups = Stream(sum(1 for _ in _read_groups(context)), lambda: _read_groups(context))
        candidates = Stream(
            context.run.count_rows("candidates"), lambda: (each for group in groups for each in group.images)
        )
    scorers = context.recipe.candidate_scorers
    annotators = {name: each for name, each in scorers.items() if isinstance(each, AnnotatorSettings)}
    others, checks = annotate_candidates(context, annotators, groups) if annotators else (OtherScores(), {})
    judges = {name: each for name, each in scorers.items() if name not in annotators}
    notes = judge_images(context, tables, judges, candidates, others)
    return {**sum_judge_spending(context.run.path, _STAGE), **notes, **({ANNOTATORS: checks} if checks else {})}


def _read_groups(context: Context) -> Iterator[CandidateGroup]:
    rows = (
        {**row, "unit": unit}
        for unit, rows in context.run.rows_by_unit("candidates", ["key", "caption_key"])
        for row in rows
    )
    for item, drawn in join_in_order(
        read_captions_to_draw(context, "train"), lambda item: item.key, group_by_column("caption_key", rows)
    ):
        if drawn:
            text, questions = item.caption.text, item.questions
            yield CandidateGroup(item.key, tuple(ImageToJudge(r["key"], r["unit"], text, questions) for r in drawn))

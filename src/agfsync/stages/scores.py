"""Stage 4: every scorer's word on every candidate (Eq. 2 to 4), unweighted. One model is in memory at a time."""

from collections.abc import Iterator, Mapping
from typing import Any

from agfsync.stages.context import Context, to_draw
from agfsync.stages.judging import Tables, ToJudge, judge
from agfsync.stages.spending import spent_by_judges
from agfsync.store.streams import Reiterable, Stream, group_by_column, join_in_order

_STAGE = "scores"


def run(context: Context) -> Mapping[str, Any]:
    """Score what isn't scored yet; the notes are those that `judge` makes, and what the judges have spent in all.

    The pictures of a pair set need no scores.

    Raises:
        ModelError: a scorer can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    tables = Tables(stage=_STAGE, pictures="candidates", scores=_STAGE)
    candidates: Reiterable[ToJudge] = () if context.recipe.pairs.source else _candidates(context)
    notes = judge(context, tables, context.recipe.candidate_scorers, candidates)
    return {**spent_by_judges(context.run.path, _STAGE), **notes}


def _candidates(context: Context) -> Stream[ToJudge]:
    return Stream(context.run.count_rows("candidates"), lambda: _drawn(context))


def _drawn(context: Context) -> Iterator[ToJudge]:
    rows = (
        {**row, "unit": unit}
        for unit, rows in context.run.rows_by_unit("candidates", ["key", "caption_key"])
        for row in rows
    )
    for asked, drawn in join_in_order(
        to_draw(context, "train"), lambda asked: asked.key, group_by_column("caption_key", rows)
    ):
        for row in drawn or ():
            yield ToJudge(row["key"], row["unit"], asked.caption.text, asked.questions)

"""Stage 4: every scorer's score of every candidate (Eq. 2 to 4), unweighted. One model is in memory at a time."""

from collections.abc import Iterator, Mapping
from typing import Any

from agfsync.stages.context import Context, read_captions_to_draw
from agfsync.stages.judging import ImageToJudge, Tables, judge_images
from agfsync.stages.spending import sum_judge_spending
from agfsync.store.streams import Reiterable, Stream, group_by_column, join_in_order

_STAGE = "scores"


def run(context: Context) -> Mapping[str, Any]:
    """Score what isn't scored yet; return the notes of `judge_images` and the spending of all judges.

    The images of a pair set need no scores.

    Raises:
        ModelError: a scorer can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    tables = Tables(stage=_STAGE, pictures="candidates", scores=_STAGE)
    candidates: Reiterable[ImageToJudge] = () if context.recipe.pairs.source else _candidates(context)
    notes = judge_images(context, tables, context.recipe.candidate_scorers, candidates)
    return {**sum_judge_spending(context.run.path, _STAGE), **notes}


def _candidates(context: Context) -> Stream[ImageToJudge]:
    return Stream(context.run.count_rows("candidates"), lambda: _read_candidates(context))


def _read_candidates(context: Context) -> Iterator[ImageToJudge]:
    rows = (
        {**row, "unit": unit}
        for unit, rows in context.run.rows_by_unit("candidates", ["key", "caption_key"])
        for row in rows
    )
    for asked, drawn in join_in_order(
        read_captions_to_draw(context, "train"), lambda asked: asked.key, group_by_column("caption_key", rows)
    ):
        for row in drawn or ():
            yield ImageToJudge(row["key"], row["unit"], asked.caption.text, asked.questions)

"""Stage 4: every scorer's word on every candidate (Eq. 2 to 4), unweighted. One model is in memory at a time."""

from collections.abc import Mapping
from typing import Any

from agfsync.records import Caption
from agfsync.stages import Context, questions_by_caption
from agfsync.stages.judging import Tables, ToJudge, judge

STAGE = "scores"


def run(context: Context) -> Mapping[str, Any]:
    """Score what isn't scored yet; the notes are those that `judge` makes. The pictures of a pair set need no scores.

    Raises:
        ModelError: a scorer can't be loaded. BudgetError: one left more unscored than `failure_budget` allows.
    """
    tables = Tables(stage=STAGE, pictures="candidates", scores=STAGE)
    candidates = [] if context.recipe.pairs.source else _candidates(context)
    return judge(context, tables, context.recipe.scores.scorers, candidates)


def _candidates(context: Context) -> list[ToJudge]:
    prompts = {caption.key: caption.text for caption in context.run.read("captions", Caption)}
    questions = questions_by_caption(context)
    return [
        ToJudge(row["key"], unit, prompts[row["caption_key"]], questions[row["caption_key"]])
        for unit, rows in context.run.grouped("candidates", ["key", "caption_key"])
        for row in rows
    ]

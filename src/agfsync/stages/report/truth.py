"""Which judge of the evaluation errs where, by a judge that knows the truth and that nothing was selected on."""

from collections.abc import Mapping
from typing import Any

from agfsync.recipe import Recipe
from agfsync.records import Answer, Question, derive_seed
from agfsync.stages.context import knows_truth
from agfsync.stages.report.evidence import Evidence
from agfsync.stages.report.verdict import find_role
from agfsync.statistics.calibration import KnownAnswer, describe_answers
from agfsync.store import Run


def judge_judges(run: Run, evidence: Evidence) -> Mapping[str, Any]:
    """Return the `teller` of the truth and, by judge, the figures of `describe_answers`; empty without a teller.

    They are those of all images of the evaluation, base and aligned.
    """
    recipe = evidence.recipe
    tellers = [name for name, each in recipe.evaluation_scorers.items() if knows_truth(each)]
    free = [name for name in tellers if find_role(name, recipe, evidence.selectors) == "independent"]
    if not free or "evaluation" not in evidence.finished:
        return {}
    answers = _read_answers(run, recipe)
    truth = answers.pop(free[0], {})
    found = {}
    for judge, given in answers.items():
        known = [
            KnownAnswer(image, kind, truth[image, key][1].answer == "yes", answer.p_yes)
            for (image, key), (kind, answer) in given.items()
            if (image, key) in truth and judge not in tellers
        ]
        if known:
            found[judge] = describe_answers(
                known, recipe.evaluation.resamples, derive_seed(recipe.seed, "truth", judge)
            )
    return {"teller": free[0], "judges": found} if found else {}


def _read_answers(run: Run, recipe: Recipe) -> dict[str, dict[tuple[str, str], tuple[str, Answer]]]:
    """Return element type and answer of each yes/no question, by judge, and by image and question."""
    kinds = {q.key: q.element_type for q in run.read("questions", Question) if q.is_yes_no}
    found: dict[str, dict[tuple[str, str], tuple[str, Answer]]] = {}
    for row in run.rows("evaluation_scores", ["candidate_key", "scorer", "answers"]):
        for each in row["answers"] if row["scorer"] in recipe.evaluation_scorers else ():
            answer = Answer(**each)
            if answer.question_key in kinds:
                place = row["candidate_key"], answer.question_key
                found.setdefault(row["scorer"], {})[place] = kinds[answer.question_key], answer
    return found

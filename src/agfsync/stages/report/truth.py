"""The errors of the evaluation's judges, measured by a judge that knows the truth and that nothing was selected on."""

from collections.abc import Mapping
from typing import Any

from agfsync.recipe import Recipe
from agfsync.records import Answer, Question, derive_seed
from agfsync.stages.context import knows_truth
from agfsync.stages.report.evidence import Evidence
from agfsync.stages.report.verdict import find_role
from agfsync.statistics.calibration import KnownAnswer, describe_answers
from agfsync.store import Run


def compare_with_truth(run: Run, evidence: Evidence) -> Mapping[str, Any]:
    """Return the name of the `oracle` and, by judge, the figures of `describe_answers`; empty without an oracle.

    They cover all images of the evaluation, of the base and of the aligned model.
    """
    recipe = evidence.recipe
    oracles = [name for name, settings in recipe.evaluation_scorers.items() if knows_truth(settings)]
    independent = [name for name in oracles if find_role(name, recipe, evidence.selectors) == "independent"]
    if not independent or "evaluation" not in evidence.finished:
        return {}
    answers = _read_answers(run, recipe)
    truth = answers.pop(independent[0], {})
    judges = {}
    for judge, by_question in answers.items():
        known = [
            KnownAnswer(image, kind, truth[image, key][1].answer == "yes", answer.p_yes)
            for (image, key), (kind, answer) in by_question.items()
            if (image, key) in truth and judge not in oracles
        ]
        if known:
            seed = derive_seed(recipe.seed, "truth", judge)
            judges[judge] = describe_answers(known, recipe.evaluation.resamples, seed)
    return {"oracle": independent[0], "judges": judges} if judges else {}


def _read_answers(run: Run, recipe: Recipe) -> dict[str, dict[tuple[str, str], tuple[str, Answer]]]:
    """Return judge -> (image, question) -> the element type and the answer, of the yes/no questions."""
    kinds = {q.key: q.element_type for q in run.read("questions", Question) if q.is_yes_no}
    answers: dict[str, dict[tuple[str, str], tuple[str, Answer]]] = {}
    for row in run.rows("evaluation_scores", ["candidate_key", "scorer", "answers"]):
        for fields in row["answers"] if row["scorer"] in recipe.evaluation_scorers else ():
            answer = Answer(**fields)
            if answer.question_key in kinds:
                key = row["candidate_key"], answer.question_key
                answers.setdefault(row["scorer"], {})[key] = kinds[answer.question_key], answer
    return answers

"""The measure of an evaluation set: a benchmark's own figures for base and aligned model, by judge."""

from collections.abc import Iterable, Mapping
from typing import Any

from agfsync import catalog
from agfsync.measures import JudgedImage, Measure
from agfsync.records import Score
from agfsync.stages.evaluation.comparing import Sides
from agfsync.stages.evaluation.sets import ReadSet

MEASURED = "measured"
"""The note with the sets' measures."""


def measure_set(of: ReadSet, name: str, sides: Sides, scores: Iterable[Score]) -> dict[str, Any]:
    """Return the figures of the measure `name` for each judge of a set, as figure -> [base, aligned].

    They cover the captions that the judge has scored for both models; `captions` is their number. A measure of answers
    has no figures for a judge without any.
    """
    measure: Measure = catalog.find("measures", name)
    by_judge: dict[str, dict[str, Score]] = {judge: {} for judge in of.by}
    for score in scores:
        if score.scorer in by_judge and score.value is not None:
            by_judge[score.scorer][score.candidate_key] = score
    judges = {judge: _measure_both(of, sides, found, measure) for judge, found in by_judge.items()}
    return {"measure": name, "judges": {judge: each for judge, each in judges.items() if each["figures"]}}


def _measure_both(of: ReadSet, sides: Sides, scores: Mapping[str, Score], measure: Measure) -> dict[str, Any]:
    base: list[JudgedImage] = []
    aligned: list[JudgedImage] = []
    for caption in of.captions:
        both = [scores.get(key) for key in sides.get(caption.key, ())]
        if len(both) == 2 and both[0] is not None and both[1] is not None:
            for images, score in zip((base, aligned), both, strict=True):
                questions = of.questions.get(caption.key, ())
                assert score is not None and score.value is not None
                answers = {answer.question_key: answer for answer in score.answers}
                images.append(JudgedImage(caption.category, score.value, questions, answers))
    before, after = measure(base), measure(aligned)
    return {"captions": len(base), "figures": {name: [before[name], after[name]] for name in before if name in after}}

from agfsync.records import Answer, Caption, Question, Score
from agfsync.stages.evaluation.measuring import measure_set
from agfsync.stages.evaluation.sets import ReadSet

CAPTIONS = [Caption(f"c{n}", f"text {n}", "coco", "tifa") for n in range(3)]
QUESTIONS = {
    c.key: (
        Question(f"{c.key}a", c.key, "Is there a dog?", "yes", "dog", "object"),
        Question(f"{c.key}b", c.key, "Is it red?", "yes", "red", "color", ("Is there a dog?",)),
    )
    for c in CAPTIONS
}


def score(image: str, judge: str, *p: float) -> Score:
    answers = tuple(Answer(image[:2] + name, "yes" if x > 0.5 else "no", x) for name, x in zip("ab", p, strict=True))
    return Score(f"{judge}{image}", image, judge, 50.0, None, answers)


def test_a_judge_is_measured_on_what_it_scored_for_both_models() -> None:
    sides = {c.key: (f"{c.key}base", f"{c.key}aligned") for c in CAPTIONS}
    scores = [
        score("c0base", "vqa", 0.1, 0.9),
        score("c0aligned", "vqa", 0.9, 0.9),
        score("c1base", "vqa", 0.9, 0.9),
        score("c1aligned", "vqa", 0.9, 0.1),
        score("c2base", "vqa", 0.9, 0.9),
        Score("x", "c2aligned", "vqa", None, "asleep"),
        *(Score(key, key, "clip", 20.0, None) for pair in sides.values() for key in pair),
    ]
    found = measure_set(ReadSet("tifa", CAPTIONS, QUESTIONS, ("vqa", "clip")), "dsg", sides, scores)
    figures = {"with dependencies": [50.0, 75.0], "without": [75.0, 75.0]}
    assert found == {"measure": "dsg", "judges": {"vqa": {"captions": 2, "figures": figures}}}

"""Scores of two models -> what is to be said of them: rows that pair, and their summary with intervals. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from agfsync.records import Caption, Comparison, Question, Score, digest, seed_of
from agfsync.statistics import mean_difference, paired_bootstrap, win_rate

Questions = Mapping[str, Sequence[Question]]
"""Caption key -> its questions."""
Sides = Mapping[str, tuple[str, str]]
"""Caption key -> the keys of the base's and the aligned model's picture."""


def compare(
    captions: Sequence[Caption],
    sides: Sides,
    scores: Iterable[Score],
    questions: Questions,
) -> list[Comparison]:
    """For each caption and judge a row of the whole image, and one for each type of the questions the judge answered.

    A caption that either picture has no value for gives no row of that judge: what is compared is always paired.
    """
    words: dict[str, dict[str, Score]] = defaultdict(dict)
    for word in scores:
        of = words[word.scorer]  # Whatever it says of the first picture: the judges stay in their order.
        if word.value is not None:
            of[word.candidate_key] = word
    rows: list[Comparison] = []
    for caption in captions:
        base, aligned = sides.get(caption.key, ("", ""))
        for judge, of in words.items():
            if base in of and aligned in of:
                rows += _rows(caption, judge, of[base], of[aligned], questions.get(caption.key, ()))
    return rows


def summarise(comparisons: Sequence[Comparison], resamples: int, seed: int) -> dict[str, Any]:
    """What the notes hold: by judge, and for each judge by category and by element type, the figures of `_figures`."""
    groups: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for row in comparisons:
        if row.element_type:
            groups["element_types", row.judge, row.element_type].append(row)
        else:
            groups["judges", row.judge, ""].append(row)
            groups["categories", row.judge, row.category].append(row)
    summary: dict[str, Any] = {"judges": {}, "categories": {}, "element_types": {}}
    for (table, judge, part), rows in groups.items():
        figures = _figures(rows, resamples, seed_of(seed, "bootstrap", table, judge, part))
        if table == "judges":
            summary[table][judge] = figures
        else:
            summary[table].setdefault(judge, {})[part] = figures
    return summary


def _rows(
    caption: Caption, judge: str, base: Score, aligned: Score, questions: Sequence[Question]
) -> Iterator[Comparison]:
    def row(element_type: str, before: float, after: float) -> Comparison:
        key = digest("comparison", caption.key, base.key, aligned.key, element_type)
        return Comparison(key, caption.key, caption.category, judge, element_type, before, after)

    if base.value is not None and aligned.value is not None:
        yield row("", base.value, aligned.value)
    before, after = _shares(base, questions), _shares(aligned, questions)
    for element_type in before:
        if element_type in after:
            yield row(element_type, before[element_type], after[element_type])


def _shares(score: Score, questions: Sequence[Question]) -> dict[str, float]:
    """Element type -> share, x100, of its questions that were answered as the caption states."""
    given = {answer.question_key: answer.answer for answer in score.answers}
    right: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        if question.key in given:
            right[question.element_type].append(given[question.key] == question.answer)
    return {element_type: 100 * fmean(marks) for element_type, marks in right.items()}


def _figures(rows: Sequence[Comparison], resamples: int, seed: int) -> dict[str, float]:
    """Means of base and aligned, their difference with its 95 % interval, and the win rate in 0..1."""
    base, aligned = [row.base for row in rows], [row.aligned for row in rows]
    low, high = paired_bootstrap(base, aligned, resamples, seed)
    return {
        "prompts": len(rows),
        "base": fmean(base),
        "aligned": fmean(aligned),
        "difference": mean_difference(base, aligned),
        "low": low,
        "high": high,
        "win_rate": win_rate(base, aligned),
    }

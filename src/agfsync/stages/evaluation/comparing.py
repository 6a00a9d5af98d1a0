"""Comparison of two models by their scores: paired rows, and their summary with intervals. Without side effects."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from agfsync.recipe import HELD_OUT
from agfsync.records import Caption, Comparison, Question, Score, derive_seed, digest
from agfsync.statistics import (
    FEWEST_FOR_VERDICT,
    adjust_holm,
    compute_win_shares,
    infer_mean,
    infer_win_rate,
    standardise_gains,
    subtract_paired,
)

QuestionsByCaption = Mapping[str, Sequence[Question]]
"""Caption key -> its questions."""
Sides = Mapping[str, tuple[str, str]]
"""Caption key -> the keys of the base's and the aligned model's image."""


def compare_models(
    captions: Sequence[Caption],
    sides: Sides,
    scores: Iterable[Score],
    questions: QuestionsByCaption,
    name: str = HELD_OUT,
    judges: Collection[str] | None = None,
) -> list[Comparison]:
    """Return a row for each caption and judge, and one for each element type whose questions the judge answered.

    A judge has no row for a caption if one of its images has no value: comparisons are always paired.

    Args:
        name: the name of the evaluation set.
        judges: the judges of the set; None: all that gave scores.
    """
    scores_of: dict[str, dict[str, Score]] = defaultdict(dict)
    for score in scores:
        by_image = scores_of[score.scorer]  # Even without a value, so that the judges keep their order.
        if score.value is not None:
            by_image[score.candidate_key] = score
    rows: list[Comparison] = []
    for caption in captions:
        base, aligned = sides.get(caption.key, ("", ""))
        for judge, by_image in scores_of.items():
            if base in by_image and aligned in by_image and (judges is None or judge in judges):
                both = by_image[base], by_image[aligned]
                rows += _make_rows(name, caption, judge, *both, questions.get(caption.key, ()))
    return rows


def summarise_comparisons(comparisons: Sequence[Comparison], resamples: int, seed: int) -> dict[str, Any]:
    """Return the summary for the stage's notes, in JSON types.

    It has the figures of `compute_figures` by judge, and for each judge by category and by element type. Figures of
    categories and element types have the corrected p-value `p_adjusted` (Holm), over all rows of their table with
    enough prompts for a verdict; the judges' p-values are corrected later, once their roles are known. `contrasts`
    compares the gains of every two judges.
    """
    groups: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for row in comparisons:
        if row.element_type:
            groups["element_types", row.judge, row.element_type].append(row)
        else:
            groups["judges", row.judge, ""].append(row)
            groups["categories", row.judge, row.category].append(row)
    summary: dict[str, Any] = {"judges": {}, "categories": {}, "element_types": {}}
    for (table, judge, part), rows in groups.items():
        figures = compute_figures(rows, resamples, derive_seed(seed, "bootstrap", table, judge, part))
        if table == "judges":
            summary[table][judge] = figures
        else:
            summary[table].setdefault(judge, {})[part] = figures
    for table in ("categories", "element_types"):
        _correct_p_values(summary[table])
    whole = {judge: rows for (table, judge, _), rows in groups.items() if table == "judges"}
    return summary | {"contrasts": _contrast_judges(whole, resamples, seed)}


def _correct_p_values(table: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Add the corrected p-value to each row; None for rows with too few prompts, which aren't tested."""
    rows = {(judge, part): figures for judge, parts in table.items() for part, figures in parts.items()}
    tested = {key: f["p"] if f["prompts"] >= FEWEST_FOR_VERDICT else None for key, f in rows.items()}
    for key, p in adjust_holm(tested).items():
        rows[key]["p_adjusted"] = p


def _contrast_judges(judged: Mapping[str, Sequence[Comparison]], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return, for every two judges, the excess of `judge`'s gain over `other`'s, on the captions that both have judged.

    Each gain is in units of the standard deviation of its judge's own paired differences, since scales differ.
    """
    gains = {judge: {row.caption_key: row.aligned - row.base for row in rows} for judge, rows in judged.items()}
    contrasts = []
    for judge, other in combinations(gains, 2):
        shared = [key for key in gains[judge] if key in gains[other]]
        ours, theirs = (standardise_gains([gains[name][key] for key in shared]) for name in (judge, other))
        if ours is None or theirs is None:
            continue
        excess_N = ours - theirs
        interval, p = infer_mean(excess_N, resamples, derive_seed(seed, "bootstrap", "contrast", judge, other))
        low, high = interval or (None, None)
        figures = {"prompts": len(shared), "difference": float(excess_N.mean()), "low": low, "high": high, "p": p}
        contrasts.append({"judge": judge, "other": other, **figures})
    return contrasts


def _make_rows(
    name: str, caption: Caption, judge: str, base: Score, aligned: Score, questions: Sequence[Question]
) -> Iterator[Comparison]:
    def row(element_type: str, before: float, after: float) -> Comparison:
        key = digest("comparison", name, caption.key, base.key, aligned.key, element_type)
        return Comparison(key, name, caption.key, caption.category, judge, element_type, before, after)

    if base.value is not None and aligned.value is not None:
        yield row("", base.value, aligned.value)
    before, after = _compute_shares(base, questions), _compute_shares(aligned, questions)
    for element_type in before:
        if element_type in after:
            yield row(element_type, before[element_type], after[element_type])


def _compute_shares(score: Score, questions: Sequence[Question]) -> dict[str, float]:
    """Return, for each element type, the percentage of its questions with the answer that the caption states."""
    answers = {answer.question_key: answer.answer for answer in score.answers}
    correct: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        if question.key in answers:
            correct[question.element_type].append(answers[question.key] == question.answer)
    return {element_type: 100 * fmean(flags) for element_type, flags in correct.items()}


def compute_figures(rows: Sequence[Comparison], resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of a group of paired rows.

    These are the means of base and aligned; their difference with its 95 % interval (None for too few prompts), its
    plain p-value and the spread, the standard deviation of single differences; and, in 0..1, the win rate with its
    95 % interval and the share of ties.
    """
    base, aligned = [row.base for row in rows], [row.aligned for row in rows]
    difference_N, shares = subtract_paired(base, aligned), compute_win_shares(base, aligned)
    interval, p = infer_mean(difference_N, resamples, seed)
    low, high = interval or (None, None)
    win_low, win_high = infer_win_rate(shares, len(rows))
    return {
        "prompts": len(rows),
        "base": fmean(base),
        "aligned": fmean(aligned),
        "difference": float(difference_N.mean()),
        "low": low,
        "high": high,
        "p": p,
        "spread": float(difference_N.std(ddof=1)) if len(rows) > 1 else None,
        "win_rate": shares.rate,
        "win_low": win_low,
        "win_high": win_high,
        "ties": shares.equal,
    }

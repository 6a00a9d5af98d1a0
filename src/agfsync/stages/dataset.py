"""The statistics of a run's data as in AGFSync's tables: captions, questions, element types, utilisation."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from agfsync.language.text import count_words, normalise_text
from agfsync.recipe import HELD_OUT, Recipe
from agfsync.store import Run
from agfsync.store.streams import group_by_column

THRESHOLDS = range(0, 101, 5)
"""The scores at which the utilisation is reported."""
FILTERS = ({"vqa": 90.0, "aesthetic": 60.0}, {"vqa": 85.0, "aesthetic": 50.0})
"""The filters that the paper compares with: DreamSync's, and a milder one (Table 10)."""


def gather_statistics(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Return the statistics of the captions, questions, candidates and pairs that a run has so far.

    `categories` and `element_types` have counts and shares in 0..1. Of the captions with candidates, `utilisation` has
    for each scorer the share with a candidate of at least each of `THRESHOLDS`, `filters` the share with a candidate
    that passes all thresholds of a filter (Fig. 7), and `conversion` the share that gave a pair. Empty for a run
    without captions.
    """
    captions = list(run.rows("captions", ["key", "text", "category", "split"]))
    if not captions:
        return {}
    columns = ["caption_key", "text", "element", "element_type"]
    questions = dict(group_by_column("caption_key", run.rows("questions", columns)))
    held_out = sum(caption["split"] == HELD_OUT for caption in captions)
    return {
        "captions": len(captions),
        "held_out": held_out,
        "words_a_caption": fmean(count_words(caption["text"]) for caption in captions),
        "categories": _count_categories(captions, questions),
        **_count_questions(questions),
        **_measure_utilisation(run, recipe),
    }


def _count_categories(
    captions: Sequence[Mapping[str, Any]], questions: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float]]:
    """Return each category's captions, their share, and their mean numbers of words and questions."""
    by_category: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for caption in captions:
        by_category[caption["category"]].append(caption)
    return {
        category: {
            "captions": len(rows),
            "share": len(rows) / len(captions),
            "words": fmean(count_words(each["text"]) for each in rows),
            "questions": fmean(len(questions.get(each["key"], ())) for each in rows),
        }
        for category, rows in by_category.items()
    }


def _count_questions(by_caption: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the means over the captions that have questions, and the counts by element type, the rarest first."""
    questions = [question for rows in by_caption.values() for question in rows]
    if not questions:
        return {}
    types = Counter(question["element_type"] for question in questions)
    return {
        "questions": len(questions),
        "questions_a_caption": len(questions) / len(by_caption),
        "words_a_question": fmean(count_words(question["text"]) for question in questions),
        "elements_a_caption": fmean(len({normalise_text(q["element"]) for q in rows}) for rows in by_caption.values()),
        "element_types": {
            name: {"questions": count, "share": count / len(questions)} for name, count in reversed(types.most_common())
        },
    }


def _measure_utilisation(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Return the shares of captions with a candidate above a score, with one that passes a filter, and with a pair."""
    captions = {row["key"]: row["caption_key"] for row in run.rows("candidates", ["key", "caption_key"])}
    if not captions:
        return {}
    drawn, names = len(set(captions.values())), recipe.candidate_scores
    wanted = [*FILTERS, dict(getattr(recipe.training.method, "at_least", {}))]
    filters = [each for n, each in enumerate(wanted) if each and each.keys() <= set(names) and each not in wanted[:n]]
    best: dict[str, dict[str, float]] = {name: {} for name in names}
    passed: list[set[str]] = [set() for _ in filters]
    for key, rows in group_by_column("candidate_key", run.rows("scores", ["candidate_key", "scorer", "value"])):
        if (caption := captions.get(key)) is None:
            continue
        values = {row["scorer"]: row["value"] for row in rows if row["value"] is not None}
        for name in (each for each in names if each in values):
            best[name][caption] = max(values[name], best[name].get(caption, values[name]))
        for at_least, keys in zip(filters, passed, strict=True):
            if all(values.get(name, -1.0) >= least for name, least in at_least.items()):
                keys.add(caption)
    converted = {row["caption_key"] for row in run.rows("pairs", ["caption_key"])}
    return {
        "candidates": len(captions),
        "utilisation": {name: _share_above(list(of.values()), drawn) for name, of in best.items() if of},
        "filters": [{"at_least": f, "share": len(keys) / drawn} for f, keys in zip(filters, passed, strict=True)],
        "conversion": len(converted) / drawn,
    }


def _share_above(values: Sequence[float], count: int) -> list[float]:
    """Return the share of `count` captions whose best value is at least each of the thresholds."""
    return [sum(value >= threshold for value in values) / count for threshold in THRESHOLDS]

"""The report's data, read from the run folder; missing tables are empty. Images stay on disk."""

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agfsync.formats import Selector
from agfsync.recipe import HELD_OUT, Recipe
from agfsync.records import Answer, Candidate, Caption, Comparison, Pair, Question, Record
from agfsync.stages import list_needed_stages
from agfsync.stages.dataset import gather_statistics
from agfsync.stages.selection import find_training_selectors
from agfsync.store import Run
from agfsync.store.manifest import Finished

_R = TypeVar("_R", bound=Record)


ValuesByCandidate = Mapping[str, Mapping[str, float]]
"""Candidate key -> scorer -> value on 0..100; unscored ones are absent."""


@dataclass(frozen=True, slots=True)
class ScoreValues:
    """All values of each scorer, as arrays since there may be millions; and the values of the pairs' candidates."""

    every: Mapping[str, Sequence[float]]
    paired: ValuesByCandidate


@dataclass(frozen=True, slots=True)
class CandidateJudgement:
    """A candidate's values and answers by scorer."""

    values: Mapping[str, float] = field(default_factory=dict)
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """The keys of a held-out caption's two images: the base's and the aligned model's, of the same seed."""

    base: str
    aligned: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The data of a run's finished stages."""

    recipe: Recipe
    recipe_yaml: str
    finished: Mapping[str, Finished]
    left_out: Mapping[str, Counter[str]]
    """stage -> reason -> count of skipped, unscored and dropped items"""
    captions: Mapping[str, Caption]
    scores: ScoreValues
    pairs: Sequence[Pair]
    steps: Sequence[Mapping[str, float]]
    """the training's metrics, one mapping for each step"""
    comparisons: Sequence[Comparison]
    drawn: Mapping[str, ImageKeys]
    """by caption key"""
    selectors: Sequence[Selector] | None = ()
    """the scorers that chose the training data; None if unknown"""
    data: Mapping[str, Any] = field(default_factory=dict)
    """the statistics of captions, questions and candidates"""
    truth: Mapping[str, Any] = field(default_factory=dict)
    """the comparison of the judges' answers with the ground truth"""


def gather_evidence(run: Run, recipe: Recipe) -> Evidence:
    """Gather the evidence, without images, questions and answers, which each gallery reads for its own captions."""
    # A fork may have results of stages that its recipe doesn't need.
    needed = [stage.name for stage in list_needed_stages(recipe)[:-1]]
    finished = {stage: ended for stage in needed if (ended := run.find_finished(stage))}
    pairs = _read_records(run, finished, "pairs", Pair)
    first_set = finished["evaluation"].notes.get("set", HELD_OUT) if "evaluation" in finished else ""
    of_sets = run.read("evaluation_captions", Caption) if "evaluation" in finished else ()
    return Evidence(
        recipe=recipe,
        recipe_yaml=run.recipe_yaml,
        finished=finished,
        left_out={stage: counts for stage in finished if (counts := _count_left_out(run, stage))},
        captions={c.key: c for c in [*of_sets, *_read_records(run, finished, "captions", Caption)]},
        scores=_read_scores(run, finished, pairs),
        pairs=pairs,
        steps=read_steps(run),
        comparisons=[c for c in _read_records(run, finished, "evaluation", Comparison) if c.set == first_set],
        drawn=_read_drawn(run) if "evaluation" in finished else {},
        selectors=find_training_selectors(run, recipe),
        data=gather_statistics(run, recipe) if "captions" in finished else {},
    )


def read_images(run: Run, stage: str, keys: Collection[str]) -> dict[str, bytes]:
    """Read the image files of the candidates `keys` from a stage's table; other units aren't read."""
    wanted = set(keys)
    units = [unit for unit, rows in run.rows_by_unit(stage, ["key"]) if any(row["key"] in wanted for row in rows)]
    return {c.key: c.image for c in run.read(stage, Candidate, units) if c.key in wanted}


def read_questions(run: Run, caption_keys: Collection[str]) -> dict[str, Question]:
    """Read the questions on these captions, by question key."""
    wanted = set(caption_keys)
    return {q.key: q for q in run.read("questions", Question) if q.caption_key in wanted}


def read_judgements(run: Run, stage: str, keys: Collection[str]) -> dict[str, CandidateJudgement]:
    """Read the values and answers of the candidates `keys` from a stage's table of scores."""
    wanted = set(keys)
    columns = ["candidate_key", "scorer", "value", "answers"]
    values: dict[str, dict[str, float]] = defaultdict(dict)
    answers: dict[str, dict[str, Sequence[Answer]]] = defaultdict(dict)
    for row in run.rows(stage, columns):
        if row["candidate_key"] in wanted and row["value"] is not None:
            values[row["candidate_key"]][row["scorer"]] = row["value"]
            answers[row["candidate_key"]][row["scorer"]] = tuple(Answer(**a) for a in row["answers"])
    return {key: CandidateJudgement(values[key], answers[key]) for key in values}


def _read_records(run: Run, finished: Mapping[str, Finished], stage: str, kind: type[_R]) -> list[_R]:
    return list(run.read(stage, kind)) if stage in finished else []


def _read_scores(run: Run, finished: Mapping[str, Finished], pairs: Sequence[Pair]) -> ScoreValues:
    wanted = {key for pair in pairs for key in (pair.winner_key, pair.loser_key)}
    every: dict[str, array[float]] = defaultdict(lambda: array("d"))
    paired: dict[str, dict[str, float]] = defaultdict(dict)
    for row in run.rows("scores", ["candidate_key", "scorer", "value"]) if "scores" in finished else ():
        if row["value"] is not None:
            every[row["scorer"]].append(row["value"])
            if row["candidate_key"] in wanted:
                paired[row["candidate_key"]][row["scorer"]] = row["value"]
    return ScoreValues(every, paired)


def _read_drawn(run: Run) -> dict[str, ImageKeys]:
    by_caption: dict[str, dict[str, str]] = defaultdict(dict)
    for row in run.rows("evaluation_images", ["key", "caption_key", "generator"]):
        by_caption[row["caption_key"]][row["generator"]] = row["key"]
    return {
        caption: ImageKeys(keys["base"], keys["aligned"])
        for caption, keys in by_caption.items()
        if {"base", "aligned"} <= keys.keys()
    }


def _count_left_out(run: Run, stage: str) -> Counter[str]:
    """Count the left-out entries of a stage's tables, by reason."""
    tables = [name for name in (stage, f"{stage}_images", f"{stage}_scores") if name == stage or run.count(name)]
    counts: Counter[str] = Counter()
    for entry in run.list_skipped(stage):
        counts[entry.reason] += entry.count
    for table in tables:
        counts.update(run.count_dropped(table))
    return counts


def read_steps(run: Run) -> list[dict[str, float]]:
    """Read the steps of the metrics file, even of an unfinished training, up to a line truncated by a crash."""
    path = run.path / "training" / "metrics.jsonl"
    steps: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            step = json.loads(line)
        except json.JSONDecodeError:
            break
        if all(math.isfinite(value) for value in step.values()):
            steps.append(step)
    return steps

"""The stage after the evaluation: the aligned model against controls, trained as long but without the feedback.

A control is a run in the folder `controls` of this one, and shares its files. The pipeline runs it up to its
evaluation; this stage compares the two models on the captions of the first evaluation set.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from agfsync.recipe import Recipe
from agfsync.records import Comparison, derive_seed
from agfsync.stages.context import Context
from agfsync.statistics import infer_mean
from agfsync.store import Run

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "random-sft": {"training.method": {"type": "random-sft"}},
    "by-lot": {"pairs.choose": {"type": "lot"}},
}
"""Control -> the settings of the recipe that it changes."""


def run(context: Context) -> Mapping[str, Any]:
    """Compare the aligned model with each control's; return, for each control and judge, the paired difference.

    The figures are the means of both models, `difference` (this run's minus the control's), the ends of its 95 %
    interval, and its p-value.
    """
    name = context.recipe.evaluation.first_set
    ours = read_aligned_values(context.run)
    comparisons: dict[str, dict[str, Any]] = {}
    for control in context.recipe.evaluation.controls:
        with Run.open(locate_control(context.run.path, control)) as other:
            theirs = read_aligned_values(other)
        comparisons[control] = {
            judge: _compare(control, judge, values, theirs[of, judge], context.recipe)
            for (of, judge), values in ours.items()
            if of == name and (of, judge) in theirs
        }
    return {"set": name, "controls": comparisons}


def locate_control(path: Path, control: str) -> Path:
    """Return the folder of a control of the run at `path`."""
    return path / "controls" / control


def make_control_recipe(recipe: Recipe, control: str) -> Recipe:
    """Return the recipe of a control: that of the run, with the control's changes, without controls of its own.

    Sets that are judged pairwise are left out, since controls aren't compared by them.
    """
    sets = recipe.evaluation.sets
    paired = {name: None for name, each in sets.items() if each.of is not None}
    plain = {name: each.model_dump(mode="json") for name, each in sets.items() if name not in paired}
    changes: dict[str, Any] = {
        "evaluation.controls": [],
        "rounds": None,
        **({"evaluation.sets": plain} if paired else {}),
    }
    return recipe.with_({**changes, **CHANGES[control]})


def read_aligned_values(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    """Return the values of the aligned model's images by evaluation set and judge, and then by caption."""
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in run.read("evaluation", Comparison):
        if not row.element_type:
            values[row.set, row.judge][row.caption_key] = row.aligned
    return values


def _compare(
    control: str, judge: str, ours: Mapping[str, float], theirs: Mapping[str, float], recipe: Recipe
) -> dict[str, Any]:
    shared = [key for key in ours if key in theirs]
    if not shared:
        return {"prompts": 0}
    gains = [ours[key] - theirs[key] for key in shared]
    seed = derive_seed(recipe.seed, "bootstrap", "control", control, judge)
    interval, p = infer_mean(gains, recipe.evaluation.resamples, seed)
    low, high = interval or (None, None)
    figures = {"aligned": fmean(ours[key] for key in shared), "control": fmean(theirs[key] for key in shared)}
    return {"prompts": len(shared), **figures, "difference": fmean(gains), "low": low, "high": high, "p": p}

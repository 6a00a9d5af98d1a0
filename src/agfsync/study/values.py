"""The values of a study: each judge's score of each arm's and the base's image, by caption and seed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agfsync.pipeline import read_recipe
from agfsync.recipe import HELD_OUT
from agfsync.records import Caption, Comparison
from agfsync.store import RECIPE, Run
from agfsync.study.running import ArmStatus, read_arm_status
from agfsync.study.settings import Arm, Study
from agfsync.study.sharing import locate_base

JudgedValues = Mapping[tuple[str, str], Mapping[str, float]]
"""(evaluation set, judge) -> caption key -> value on 0..100."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm under one seed: its state, and its values if it has been evaluated.

    `seconds` is the time of its training, `memory` the peak in bytes if it is known.
    """

    status: ArmStatus
    values: JudgedValues = field(default_factory=dict)
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class StudyResults:
    """The results of a study as far as it got: the base's values by seed, and each arm's results by seed."""

    study: Study
    base: Mapping[int, JudgedValues]
    arms: Mapping[str, Mapping[int, ArmResult]]

    def list_judged(self) -> list[tuple[str, str]]:
        """Return the evaluation sets and judges that have values, in the order of the base's recipe."""
        found = [*self.base.values(), *(each.values for of in self.arms.values() for each in of.values())]
        return list(dict.fromkeys(key for values in found for key in values))


def gather_results(path: Path, study: Study) -> StudyResults:
    """Read the values of all arms that have been evaluated."""
    seeds = study.varied[1]
    places = {seed: locate_base(study, path, seed) for seed in seeds}
    read = {place: read_base_values(place) for place in set(places.values()) if (place / RECIPE).is_file()}
    base = {seed: read[place] for seed, place in places.items() if place in read}
    arms: dict[str, dict[int, ArmResult]] = defaultdict(dict)
    for arm in study.resolve_arms():
        # An arm that training.seed doesn't affect has the same values under each.
        same = seeds if study.is_crossed and arm.is_seedless else (arm.seed,)
        arms[arm.name] |= dict.fromkeys(same, _read_arm(arm, path))
    return StudyResults(study, base, arms)


def _read_arm(arm: Arm, path: Path) -> ArmResult:
    status, place = read_arm_status(arm, path), arm.locate(path)
    if status.state != "done":
        return ArmResult(status)
    if arm.trains_nothing:
        return ArmResult(status, read_base_values(place))
    with Run.open(place) as run:
        values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for row in run.read("evaluation", Comparison):
            if not row.element_type:
                values[row.set, row.judge][row.caption_key] = row.aligned
        training = run.find_finished("training")
    if training is None or not training.notes.get("steps"):
        return ArmResult(status, values)
    return ArmResult(status, values, training.seconds, training.notes.get("peak_memory"))


def read_base_values(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return the values of the base model's evaluation images of a run; nothing before they are judged."""
    with Run.open(path) as run:
        recipe = read_recipe(run)
        drawn = {
            row["key"]: row["caption_key"]
            for row in run.rows("evaluation_images", ["key", "caption_key", "generator"])
            if row["generator"] == "base"
        }
        held_out: Sequence[Caption] = [c for c in run.read("captions", Caption) if c.split == HELD_OUT]
        captions = [*held_out, *run.read("evaluation_captions", Caption)]
        scores = list(run.rows("evaluation_scores", ["candidate_key", "scorer", "value"]))
    in_set = {(caption.split, caption.key) for caption in captions}
    values: dict[tuple[str, str], dict[str, float]] = {
        (name, judge): {} for name in recipe.evaluation.sets for judge in recipe.set_scorers(name)
    }
    for row in scores:
        caption = drawn.get(row["candidate_key"])
        for (name, judge), found in values.items():
            if judge == row["scorer"] and row["value"] is not None and (name, caption) in in_set:
                found[str(caption)] = row["value"]
    return {key: found for key, found in values.items() if found}

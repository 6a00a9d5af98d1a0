"""The values of a study: each judge's scores of the arms' and the base's images, by caption and seed."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agfsync.stages.controls import read_aligned_values
from agfsync.store import RECIPE, Run
from agfsync.study.judged import JudgedValues, read_base_values
from agfsync.study.rounds import locate_runs
from agfsync.study.settings import Arm, Study
from agfsync.study.status import ArmStatus, read_arm_status


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
    """The results that a study has so far: the base's values by seed, and each arm's results by seed."""

    study: Study
    base: Mapping[int, JudgedValues]
    arms: Mapping[str, Mapping[int, ArmResult]]

    def list_judged(self) -> list[tuple[str, str]]:
        """Return the evaluation sets and judges that have values, in the order of the base's recipe."""
        arm_values = (result.values for by_seed in self.arms.values() for result in by_seed.values())
        return list(dict.fromkeys(key for values in (*self.base.values(), *arm_values) for key in values))


def gather_results(path: Path, study: Study) -> StudyResults:
    """Read the values of all arms that have been evaluated."""
    seeds = study.varied[1]
    bases = {seed: study.locate_base(path, seed) for seed in seeds}
    values = {folder: read_base_values(folder) for folder in set(bases.values()) if (folder / RECIPE).is_file()}
    base = {seed: values[folder] for seed, folder in bases.items() if folder in values}
    arms: dict[str, dict[int, ArmResult]] = defaultdict(dict)
    for arm in study.resolve_arms():
        # An arm without an effect of training.seed has the same values under every seed.
        seeds_of_arm = seeds if study.is_crossed and arm.is_seedless else (arm.seed,)
        arms[arm.name] |= dict.fromkeys(seeds_of_arm, _read_arm(arm, path))
    return StudyResults(study, base, arms)


def _read_arm(arm: Arm, path: Path) -> ArmResult:
    status, place = read_arm_status(arm, path), arm.locate(path)
    if status.state != "done":
        return ArmResult(status)
    if arm.trains_nothing:
        return ArmResult(status, read_base_values(place))
    places = locate_runs(arm, path)
    with ExitStack() as stack:
        runs = [stack.enter_context(Run.open(folder)) for folder in places]
        values = read_aligned_values(runs[-1])
        trainings = [
            training for run in runs if (training := run.find_finished("training")) and training.notes.get("steps")
        ]
    if not trainings:
        return ArmResult(status, values)
    peaks = [peak for training in trainings if (peak := training.notes.get("peak_memory")) is not None]
    return ArmResult(status, values, sum(training.seconds for training in trainings), max(peaks, default=None))

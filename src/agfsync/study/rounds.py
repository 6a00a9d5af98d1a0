"""Rounds of a run: each draws candidates with the previous round's model, and trains that model further.

The run itself is the first round; each later round is a fork of the previous one, in the run's folder `rounds`, and a
run of its own. The rounds are evaluated like a study, whose arms are the rounds.
"""

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from agfsync import pipeline
from agfsync.engine.progress import Progress, SilentProgress
from agfsync.errors import RunError
from agfsync.files.atomic import store_errors
from agfsync.recipe import Recipe, load_recipe
from agfsync.stages.context import MODEL
from agfsync.stages.controls import read_aligned_values
from agfsync.stages.report.verdict import Alarm, format_points
from agfsync.store import RECIPE, Run
from agfsync.store.forks import fork_run
from agfsync.study.hacking import find_round_alarms, find_watched, list_gains
from agfsync.study.judged import JudgedValues, read_base_values
from agfsync.study.settings import Arm, Study

if TYPE_CHECKING:
    from agfsync.study.values import StudyResults

WRITTEN = ("captions", "captions_unpolished", "questions")
"""Tables of which a round has all units of the previous round."""


@dataclass(frozen=True, slots=True)
class RoundArm(Arm):
    """A round of a run; the first one is the run itself."""

    number: int = 1

    def locate(self, study: Path) -> Path:
        """Return the run folder of the round in the folder of the first."""
        return locate_round(study, self.number)


class RunRounds(Study):
    """The finished and future rounds of a run, as the arms of a study."""

    table_file: ClassVar[str] = "rounds.parquet"
    page_file: ClassVar[str] = "rounds.html"
    kind: ClassVar[str] = "rounds"
    unit: ClassVar[str] = "round"
    along: ClassVar[str] = "round"
    recipe: Recipe
    shortfall: float | None = None
    """the last round's gain over the previous one, if that ended the rounds"""

    @classmethod
    def from_recipe(cls, recipe: Recipe, count: int, shortfall: float | None = None) -> "RunRounds":
        """Return the first `count` rounds of a recipe."""
        return cls(
            name=recipe.name,
            base={"name": recipe.name},
            seeds={"training.seed": (recipe.training_seed,)},
            arms={f"round-{number}": {} for number in range(1, count + 1)},
            resamples=recipe.evaluation.resamples,
            recipe=recipe,
            shortfall=shortfall,
        )

    @property
    def rival(self) -> str:
        """The name of the second comparison of each round."""
        return "the previous round"

    @property
    def ended(self) -> str:
        """The reason why the rounds ended early; empty if they didn't."""
        stop = None if self.recipe.rounds is None else self.recipe.rounds.stop
        if stop is None or self.shortfall is None:
            return ""
        gain = format_points(self.shortfall)
        return f"Ended after round {len(self.arms)}: {stop.by} gained {gain}, less than rounds.stop.gain {stop.gain:g}."

    def find_rival(self, arm: str) -> str | None:
        """Return the previous round."""
        before = int(arm.removeprefix("round-")) - 1
        return f"round-{before}" if before else None

    def locate_base(self, path: Path, seed: int) -> Path:
        """Return the run itself, which has the base's values."""
        return path

    def list_places(self) -> dict[str, float]:
        """Return the rounds with their numbers."""
        return {name: float(number) for number, name in enumerate(self.arms, 1)}

    def resolve_arms(self) -> list[Arm]:
        """Return the rounds."""
        recipe = self.recipe.with_({"rounds": None})
        return [RoundArm(name, recipe.training_seed, recipe, n) for n, name in enumerate(self.arms, 1)]

    def find_alarms(self, results: "StudyResults") -> list[Alarm]:
        """Return an alarm for each round that lost by the watched judge while it gained by a judge trained on."""
        seed, trained_on = self.recipe.training_seed, self.recipe.teachers
        name, watched = find_watched(self.recipe)
        rounds = [results.base.get(seed, {}), *(of[seed].values for of in results.arms.values())]
        values = {
            judge: [of_round.get((name, judge), {}) for of_round in rounds if of_round]
            for judge in (watched, *trained_on)
            if judge is not None
        }
        return find_round_alarms(values, watched, self.resamples) if watched in values else []


def locate_round(path: Path, number: int) -> Path:
    """Return the folder of a round of the run at `path`."""
    return path if number == 1 else path / "rounds" / str(number)


def make_round_recipe(recipe: Recipe, number: int, model: Path, mark: str) -> Recipe:
    """Return the recipe of a later round of `recipe`, which starts from `model`; `mark` is the mark of its training."""
    assert recipe.rounds is not None
    start = {"path": str(model.resolve()), "mark": mark, "reference": recipe.rounds.reference, "round": number - 1}
    changes: dict[str, Any] = {"name": f"{recipe.name}-round-{number}", "rounds": None, "start": start}
    if recipe.rounds.captions == "new":
        changes["captions.skip"] = recipe.captions.skip + (number - 1) * recipe.captions.count
    return recipe.with_({**changes, "evaluation.controls": []})


def run_with_rounds(path: Path, *, until: str | None = None, progress: Progress | None = None) -> None:
    """Bring the run at `path` up to date and, without `until`, its rounds and their page.

    Raises:
        AgfsyncError: as for `pipeline.run`.
    """
    reporter = progress or SilentProgress()
    changed = not are_rounds_done(path, until)
    pipeline.run(path, until=until, progress=reporter)
    recipe = load_recipe(path / RECIPE)
    if until is not None or recipe.rounds is None:
        return
    for number in range(2, recipe.rounds.count + 1):
        if find_shortfall(path, recipe, number - 1) is not None:
            break
        folder = prepare_round(path, recipe, number)
        if not pipeline.is_up_to_date(folder):
            reporter.say(f"round {number} of {recipe.rounds.count}")
            pipeline.run(folder, progress=reporter)
    if changed or not (path / RunRounds.page_file).exists():
        from agfsync.study.report import write_results

        alarms = write_results(path, rounds := read_rounds(path))
        for line in (rounds.ended, *(f"{alarm.title}: {alarm.text}" for alarm in alarms)):
            if line:
                reporter.say(line)


def are_rounds_done(path: Path, until: str | None = None) -> bool:
    """Return True if the run at `path` and, without `until`, its rounds are complete."""
    if not pipeline.is_up_to_date(path, until):
        return False
    recipe = load_recipe(path / RECIPE)
    if until is not None or recipe.rounds is None:
        return True
    folders = list_rounds(path)
    return all(_follows(*neighbours) and pipeline.is_up_to_date(neighbours[1]) for neighbours in pairwise(folders))


def _follows(before: Path, place: Path) -> bool:
    """Return True if the round at `place` exists and starts from the current model of the round `before`."""
    start = load_recipe(place / RECIPE).start if (place / RECIPE).is_file() else None
    return start is not None and start.mark == _read_mark(before)


def _read_mark(place: Path) -> str:
    """Return the mark of a round's training.

    Raises:
        RunError: the training hasn't ended.
    """
    with Run.open(place) as run:
        if (ended := run.find_finished("training")) is None:
            raise RunError(f"{place} has no trained model: type `agfsync run` first")
        return ended.mark


def prepare_round(path: Path, recipe: Recipe, number: int) -> Path:
    """Create or check the run folder of a round, and return it; the previous round must be complete."""
    before, place = locate_round(path, number - 1), locate_round(path, number)
    round_recipe = make_round_recipe(recipe, number, before / MODEL, _read_mark(before))
    if (place / RECIPE).exists() and not _lacks_captions(before, place):
        pipeline.prepare(place, round_recipe, update=True)
        return place
    partial = place.with_name(f"{place.name}.partial")
    with store_errors(place):
        for folder in (partial, place):
            shutil.rmtree(folder, ignore_errors=True)
        partial.parent.mkdir(exist_ok=True)
    fork_run(before, partial)
    pipeline.prepare(partial, round_recipe, update=True)
    with store_errors(place):
        partial.rename(place)
    return place


def _lacks_captions(before: Path, place: Path) -> bool:
    """Return True if the round `before` has captions or questions that its fork at `place` lacks."""
    with Run.open(before) as run, Run.open(place) as fork:
        return any(set(run.list_made(table)) - set(fork.list_made(table)) for table in WRITTEN)


def read_rounds(path: Path) -> RunRounds:
    """Return the rounds of the run at `path`, up to the last one.

    Raises:
        RunError: its recipe has no rounds.
    """
    recipe = load_recipe(path / RECIPE)
    if recipe.rounds is None:
        raise RunError(f"{path} is a run whose recipe has no rounds")
    numbers = range(1, recipe.rounds.count + 1)
    end = next(((n, gain) for n in numbers if (gain := find_shortfall(path, recipe, n)) is not None), None)
    return RunRounds.from_recipe(recipe, *(end or (recipe.rounds.count,)))


def locate_runs(arm: Arm, path: Path) -> list[Path]:
    """Return the folders of the rounds of an arm of the study at `path`; of an arm without rounds, its folder."""
    place = arm.locate(path)
    return [place] if arm.recipe.rounds is None or not (place / RECIPE).is_file() else list_rounds(place)


def list_rounds(path: Path) -> list[Path]:
    """Return the folders of the rounds of the run at `path`, even future ones; a run without rounds has one folder."""
    has_rounds = load_recipe(path / RECIPE).rounds is not None
    return [locate_round(path, n) for n in range(1, len(read_rounds(path).arms) + 1)] if has_rounds else [path]


def find_shortfall(path: Path, recipe: Recipe, number: int) -> float | None:
    """Return a round's gain over the previous one if it is too small to go on; None if it suffices or is unknown.

    Raises:
        RunError: the judge of `rounds.stop` has judged no caption in both rounds.
    """
    stop, place = None if recipe.rounds is None else recipe.rounds.stop, locate_round(path, number)
    if stop is None or not (after := _read_evaluated(place)):
        return None
    key = (stop.set, stop.by)
    before: JudgedValues = read_base_values(path) if number == 1 else _read_evaluated(locate_round(path, number - 1))
    gains = list_gains(before.get(key, {}), after.get(key, {}))
    if not gains:
        raise RunError(f"rounds.stop: {stop.by} has judged no caption of {stop.set} in both rounds, see {place}")
    return gain if (gain := fmean(gains)) < stop.gain else None


def _read_evaluated(place: Path) -> JudgedValues:
    if not (place / RECIPE).is_file():
        return {}
    with Run.open(place) as run:
        return {} if run.find_finished("evaluation") is None else read_aligned_values(run)

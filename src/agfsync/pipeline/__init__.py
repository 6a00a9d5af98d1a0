"""The runner of the stages: brings outdated stages up to date, in order."""

import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from agfsync.engine import launcher
from agfsync.engine.launcher import Order
from agfsync.engine.progress import Progress, SilentProgress
from agfsync.errors import DamagedError, OutOfMemoryError, RunError, lacks_memory
from agfsync.files.atomic import explain_disk_error
from agfsync.pipeline.checks import check_generators, check_names, find_faults
from agfsync.pipeline.damage import READ_AT_ONCE, declare_order, describe_damages, open_to_read, quarantine_damage
from agfsync.pipeline.following import bring_up_controls, bring_up_fork, prepare, read_recipe
from agfsync.pipeline.plan import digest_stage, find_due, is_current, plan_stages
from agfsync.pipeline.precision import choose_dtypes
from agfsync.recipe import Recipe
from agfsync.stages import NAMES, STAGES, Stage
from agfsync.stages.context import EARLIER, Context
from agfsync.stages.own_reward import bind_scorers
from agfsync.store import Run
from agfsync.store.manifest import Finished

__all__ = [
    "NAMES",
    "STAGES",
    "StageStatus",
    "bring_up_fork",
    "check_generators",
    "check_names",
    "choose_dtypes",
    "evaluate_base",
    "find_faults",
    "help_train",
    "is_up_to_date",
    "plan_stages",
    "prepare",
    "read_headline",
    "read_recipe",
    "read_status",
    "run",
    "run_stage",
    "verify",
]

TRAINING = "training"
_LAUNCHED = {"reward", TRAINING}
"""The stages that launcher processes share."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """The state of a stage. `units` is the number of units of a stage under way, or of rows of a finished one."""

    name: str
    state: Literal["done", "out of date", "under way", "to do"]
    units: int
    finished: Finished | None


def run(path: Path, *, until: str | None = None, progress: Progress | None = None) -> None:
    """Bring the run at `path` up to date, up to and including the stage `until`; finished stages stay as they are.

    Damaged files are reported, quarantined and regenerated.

    Raises:
        ModelError: a stage needs a generator that can't be drawn with or trained.
        PeerError: the run trains in several launcher processes, and some don't join.
        AgfsyncError: another error that the user can fix.
    """
    reporter = progress or SilentProgress()
    if is_up_to_date(path, until):
        return
    with Run.open(path, writing=True) as run_:
        recipe, reported = read_recipe(run_), set[str]()
        quarantine_damage(run_, recipe, reporter)
        due = find_due(run_, recipe, until)
        check_generators(recipe, due)
        if _LAUNCHED & set(due):
            launcher.await_helpers(reporter.say)
        while True:
            try:
                for stage in plan_stages(recipe, until):
                    _bring_up(stage, run_, recipe, reporter)
                return
            except DamagedError as damage:
                # Once: a disk that damages every file would keep this loop running for ever.
                if str(damage) in reported:
                    raise
                reported.add(str(damage))
                reporter.say(str(damage))


def is_up_to_date(path: Path, until: str | None = None) -> bool:
    """Return True if the run at `path` has nothing to do up to the stage `until`, without changing a byte."""
    with open_to_read(path) as run_:
        recipe = read_recipe(run_)
        return not find_due(run_, recipe, until) and not run_.verify(READ_AT_ONCE)


def run_stage(path: Path, name: str, *, progress: Progress | None = None) -> None:
    """Bring one stage of the run at `path` up to date.

    Raises:
        RunError: an earlier stage isn't up to date. ModelError: a generator can't be drawn with or trained.
        PeerError: the stage trains in several launcher processes, and some don't join.
    """
    with Run.open(path, writing=True) as run_:
        recipe = read_recipe(run_)
        quarantine_damage(run_, recipe, progress or SilentProgress())
        *earlier, stage = plan_stages(recipe, name)
        due = [name] if not is_current(stage, run_, recipe) else []
        check_generators(recipe, due)
        for needed in earlier:
            if not is_current(needed, run_, recipe):
                raise RunError(f"{name} needs {needed.name}: type `agfsync {needed.name} {path}` first")
        if _LAUNCHED & set(due):
            launcher.await_helpers((progress or SilentProgress()).say)
        _bring_up(stage, run_, recipe, progress or SilentProgress())


def evaluate_base(path: Path, *, progress: Progress | None = None) -> None:
    """Draw and judge the base model's evaluation images; the questions of the run at `path` must be up to date.

    Raises:
        AgfsyncError: as a run does.
    """
    with Run.open(path, writing=True) as run_:
        recipe = bind_scorers(read_recipe(run_), run_)
        check_generators(recipe, ["evaluation"])
        evaluation = import_module("agfsync.stages.evaluation")
        evaluation.judge_base(Context(run_, recipe, progress or SilentProgress()))


def help_train(order: Order) -> None:
    """Do this helper process's share of each training step; write nothing.

    Raises:
        AgfsyncError: the first process raises the same; or the run isn't at the path where the first process has it.
    """
    stage = import_module(f"agfsync.stages.{order.get('stage', TRAINING)}")
    with Run.open(Path(order["run"])) as run_:
        recipe = bind_scorers(read_recipe(run_), run_)
        stage.train_as_helper(Context(run_, recipe, SilentProgress(), order["digest"]))


def read_status(path: Path) -> list[StageStatus]:
    """Return the state of each stage of the run at `path`, also while another process is at work on it."""
    with Run.open(path) as run_:
        recipe = read_recipe(run_)
        statuses: dict[str, StageStatus] = {}
        for stage in plan_stages(recipe):
            inputs_done = all(statuses[name].state == "done" for name in stage.after)
            statuses[stage.name] = _read_stage_status(stage, run_, recipe, inputs_done)
        return list(statuses.values())


def read_headline(path: Path) -> str:
    """Return the report's headline on the evaluation of the run at `path`."""
    verdict, selection = import_module("agfsync.stages.report.verdict"), import_module("agfsync.stages.selection")
    with Run.open(path) as run_:
        recipe, evaluation = read_recipe(run_), run_.find_finished("evaluation")
        summary = evaluation.notes["judges"] if evaluation else {}
        judges = verdict.rank_judges(summary, recipe, selection.find_training_selectors(run_, recipe))
        wording = import_module("agfsync.stages.report.wording").find_wording(recipe)
    headline: str = verdict.reach_verdict(judges, wording).headline
    return headline


def verify(path: Path) -> int:
    """Verify every file of the run at `path` against its checksum; return the number of files.

    Raises:
        DamagedError: some files failed verification; they have been quarantined.
    """
    with Run.open(path, writing=True) as run_:
        declare_order(run_, read_recipe(run_))
        files = run_.count_files()
        damages = run_.verify()
        if damages:
            raise DamagedError(
                f"{len(damages)} of {files} files failed verification: {describe_damages(path, damages)}"
            )
        return files


def _bring_up(stage: Stage, run_: Run, recipe: Recipe, progress: Progress) -> None:
    if is_current(stage, run_, recipe):
        return
    digest = digest_stage(stage, run_, recipe)
    run_.reopen(stage.name)
    newest_part, begun = run_.find_newest_part(), time.monotonic()
    if stage.name == "controls":
        bring_up_controls(run_, recipe, progress, lambda path: run(path, until="evaluation", progress=progress))
    try:
        context = Context(run_, bind_scorers(recipe, run_), progress, digest)
        notes = import_module(f"agfsync.stages.{stage.name}").run(context)
    except Exception as failure:
        explained = explain_disk_error(failure, run_.path) or _explain_memory_error(failure, stage, recipe)
        if explained is None:
            raise
        raise explained from failure
    seconds = time.monotonic() - begun + run_.sum_seconds(stage.name, until=newest_part) + notes.get(EARLIER, 0.0)
    kept_notes = {name: note for name, note in notes.items() if name != EARLIER}
    run_.finish(stage.name, digest, seconds, kept_notes, stage.makes, by_rows=stage.by_rows)


def _explain_memory_error(failure: Exception, stage: Stage, recipe: Recipe) -> OutOfMemoryError | None:
    """Return an error with advice if `failure` is a lack of memory, else None."""
    if not lacks_memory(failure):
        return None
    message = (str(failure).splitlines() or ["MemoryError"])[0]
    return OutOfMemoryError(
        f"{stage.name} ran out of memory ({message[:120]}): lower {stage.advise_on_memory(recipe)}; "
        f"what is done is kept"
    )


def _read_stage_status(stage: Stage, run_: Run, recipe: Recipe, inputs_done: bool) -> StageStatus:
    """Return the state of a stage; `inputs_done` is True if all its inputs are up to date."""
    finished = run_.find_finished(stage.name)
    if finished is not None:
        current = inputs_done and is_current(stage, run_, recipe)
        return StageStatus(stage.name, "done" if current else "out of date", finished.rows, finished)
    units = run_.count_made(stage.name)
    begun = units or (run_.path / stage.name).is_dir()
    return StageStatus(stage.name, "under way" if begun else "to do", units, None)

"""The runner of a study: the base, a fork for each arm and seed, the arms in turn, and the results."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agfsync import pipeline
from agfsync.engine.progress import Progress
from agfsync.errors import AgfsyncError, InUseError, RunError
from agfsync.files.atomic import lock_folder, store_errors, write_atomic
from agfsync.store import RECIPE, STUDY_FILE, Run
from agfsync.store.forks import fork_run
from agfsync.study.rounds import are_rounds_done, read_rounds, run_with_rounds
from agfsync.study.settings import Arm, Study, dump_study, load_study
from agfsync.study.sharing import ALWAYS, SHARABLE, find_shared_stages, list_arm_stages, make_base_recipe
from agfsync.study.status import locate_failure

_POLL_SECONDS = 0.5


def run_study(study: Study, path: Path, progress: Progress, *, update: bool = False, prepare: bool = False) -> None:
    """Bring the study at `path` up to date and write its results; a failed arm doesn't stop the others.

    Several processes may work on a study: each takes arms that no other process runs. Finished work is kept.

    Args:
        update: continue existing runs with changed settings.
        prepare: stop before the first arm trains: the base is complete, and each arm has its run folder.

    Raises:
        RecipeError: an arm's recipe is wrong; this is checked before anything runs.
        AgfsyncError: the base fails, as for `pipeline.run`.
    """
    arms = study.resolve_arms()
    check_arms(arms)
    open_study(path, study)
    with hold_lock(path, progress):
        for seed in study.varied[1] if not study.is_crossed else study.varied[1][:1]:
            seed_arms = [arm for arm in arms if study.is_crossed or arm.seed == seed]
            prepare_arms(study, path, seed, seed_arms, update, progress)
    for arm in () if prepare else arms:
        run_arm(arm, path, progress)
    from agfsync.study.report import write_results

    with hold_lock(path, progress):
        write_results(path, study)


def check_arms(arms: Sequence[Arm]) -> None:
    """Check the files, models and packages that each arm names.

    Raises:
        AgfsyncError: something is missing; the message names the arm.
    """
    for arm in {arm.name: arm for arm in arms}.values():
        try:
            pipeline.check_names(arm.recipe)
            pipeline.check_generators(arm.recipe, list_arm_stages(arm))
        except AgfsyncError as failure:
            raise type(failure)(f"arm {arm.name}: {failure}") from failure


def open_study(path: Path, study: Study) -> None:
    """Create the folder of the study, or continue with an existing one.

    Raises:
        RunError: the folder contains files that aren't a study's.
    """
    is_new = path.exists() and not (path / STUDY_FILE).exists()
    if is_new and (not path.is_dir() or {entry.name for entry in path.iterdir()} - {"lock", f"{STUDY_FILE}.tmp"}):
        reason = "contains files that aren't a study's" if path.is_dir() else "is a file"
        raise RunError(f"{path} {reason}: choose another --out")
    with store_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / STUDY_FILE, dump_study(study).encode())


def read_study(path: Path) -> Study:
    """Return the study in the folder `path`, or the rounds of the run in it.

    Raises:
        RunError: there is neither.
    """
    if not (path / STUDY_FILE).is_file():
        if (path / RECIPE).is_file():
            return read_rounds(path)
        raise RunError(f"no study at {path}: `agfsync study STUDY.yaml --out {path}` makes one")
    return load_study(str(path / STUDY_FILE))


@contextmanager
def hold_lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of the study's folder within the block; wait while another process holds it."""
    reported = False
    while True:
        try:
            lock = lock_folder(path)
            break
        except InUseError as busy:
            if not reported:
                progress.say(str(busy).partition(":")[0] + ", which makes the base or the results: waiting")
            reported = True
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.close()


def prepare_arms(study: Study, path: Path, seed: int, arms: Sequence[Arm], update: bool, progress: Progress) -> None:
    """Bring the base of a seed up to date, and create the run folders of its arms."""
    base = study.locate_base(path, seed)
    recipe = make_base_recipe(study.resolve_base(seed), arms)
    shared = find_shared_stages(recipe, arms)
    until = max((*ALWAYS, *shared), key=SHARABLE.index)
    progress.say(f"base: up to {until}, which the arms share, and the base model's evaluation images")
    pipeline.prepare(base, recipe, update=update, progress=progress)
    pipeline.run(base, until=until, progress=progress)
    pipeline.evaluate_base(base, progress=progress)
    for arm in arms:
        try:
            _prepare_arm(arm, path, base, [name for name in shared if name != "scores"], update, progress)
        except InUseError as busy:
            progress.say(f"arm {arm.name}, seed {arm.seed}: {busy}")


def _prepare_arm(arm: Arm, path: Path, base: Path, shared: Sequence[str], update: bool, progress: Progress) -> None:
    place = arm.locate(path)
    with Run.open(base) as run:
        new = pipeline.bring_up_fork(place, run, shared, lambda: fork_run(base, place))
        # A fork whose process was killed here still follows the base's recipe.
        new = new or (place / RECIPE).read_bytes() == (base / RECIPE).read_bytes()
    pipeline.prepare(place, arm.recipe, update=update or new, progress=progress)
    if arm.trains_nothing:
        pipeline.run(place, until=ALWAYS[-1], progress=progress)
        pipeline.evaluate_base(place, progress=progress)


def run_arm(arm: Arm, path: Path, progress: Progress) -> None:
    """Run an arm up to its report; a failure is saved for the table."""
    if arm.trains_nothing:
        return
    failure_file, place = locate_failure(arm, path), arm.locate(path)
    try:
        if are_rounds_done(place):
            return
        progress.say(f"arm {arm.name}, seed {arm.seed}")
        run_with_rounds(place, progress=progress)
    except InUseError as busy:
        progress.say(f"arm {arm.name}, seed {arm.seed}: {busy}")
        return
    except Exception as failure:  # any failure: the other arms can still run
        known = isinstance(failure, AgfsyncError)
        reason = " ".join((str(failure) if known else f"{type(failure).__name__}: {failure}").split())
        write_atomic(failure_file, reason.encode())
        progress.say(f"arm {arm.name}, seed {arm.seed} failed: {reason}")
        return
    failure_file.unlink(missing_ok=True)

"""Units shared out among workers: what is in the run afterwards, whoever dies."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from agfsync.engine import running
from agfsync.engine.jobs import Sifted, Skip, Unit
from agfsync.engine.pool import DEATHS
from agfsync.engine.progress import SilentProgress
from agfsync.engine.running import run_job
from agfsync.errors import BudgetError, ModelError, StoreError, WorkerError
from agfsync.recipe import Engine
from agfsync.records import Caption, Question
from agfsync.store import Run
from agfsync.store.manifest import Skipped
from agfsync.store.streams import Stream

UNITS = [Unit(f"u{number}", number) for number in range(40)]


@pytest.fixture
def go(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def go(pool: Any, job: Any, budget: float = 0.0, progress: Any = None) -> None:
        monkeypatch.setattr(running, "_find_pool", lambda *_: pool)
        common = {"engine": Engine(), "at_once": 3, "schema": Caption.schema, "progress": progress or SilentProgress()}
        run_job(run, "captions", UNITS, job, budget=budget, **common)

    return go


def keys(run: Run) -> list[str]:
    run.select("captions", [unit.key for unit in UNITS])
    return [each.key for each in run.read("captions", Caption)]


class Told(SilentProgress):
    def __init__(self) -> None:
        self.said = list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


def nobody(_: Any) -> bool:
    return False


def parts(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "captions").iterdir())


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_everything_is_done_once_and_every_part_is_entered(
    run: Run, go: Any, pool: Any, captions: Any, size: int
) -> None:
    team = pool(nobody, size)
    go(team, captions())
    assert keys(run) == [f"k{number}" for number in range(40)]
    assert len(team.workers) == min(size, 14) and all(worker.stopped for worker in team.workers)
    assert [unit.key for task in team.tasks if task for unit in task] == [unit.key for unit in UNITS]
    assert len(parts(run)) == sum(task is not None for task in team.tasks)
    team.tasks.clear()
    go(team, captions())
    assert team.tasks == []


@pytest.mark.parametrize("seed", range(5))
def test_whoever_dies_and_whenever_everything_is_done_once(
    run: Run, go: Any, pool: Any, captions: Any, seed: int
) -> None:
    rng, killed = random.Random(seed), Counter[str]()

    def dies(units: Sequence[Unit[int]] | None) -> bool:
        dead = rng.random() < 0.3 and not (units and len(units) == 1 and killed[units[0].key] == DEATHS - 1)
        if dead and units and len(units) == 1:
            killed[units[0].key] += 1
        return dead

    go(pool(dies), captions())
    assert keys(run) == [f"k{number}" for number in range(40)]
    assert run.list_skipped("captions") == []


def test_a_part_whose_worker_died_after_writing_it_is_none(
    run: Run, go: Any, pool: Any, captions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = pool(nobody)
    start_worker, dead = team.start_worker, list[str]()

    def dying(plan: Any) -> Any:
        worker = start_worker(plan)
        do = worker.inner.do

        def die(path: str, units: Any) -> Any:
            delivery = do(path, units)
            if len(dead) < 5 and len(units) > 1:
                dead.append(path)
                assert (run.path / path).exists()
                raise team.Died("just now")
            return delivery

        worker.inner.do = die
        return worker

    team.start_worker = dying
    go(team, captions())
    assert keys(run) == [f"k{number}" for number in range(40)]
    assert len(dead) == 5 and not any((run.path / path).exists() for path in dead)


def test_a_unit_that_kills_its_workers_is_skipped_alone(run: Run, go: Any, pool: Any, captions: Any) -> None:
    team = pool(lambda units: any(unit.payload == 17 for unit in units or ()))
    go(team, captions(), budget=0.1)
    (skipped,) = run.list_skipped("captions")
    assert skipped.key == "u17"
    assert skipped.reason.startswith("3 workers died of it (the last: lightning")
    assert keys(run) == [f"k{number}" for number in range(40) if number != 17]
    with pytest.raises(BudgetError, match=r"captions: 1 of 40 captions skipped: 3 workers died of it .* \(unit u17\)"):
        go(team, captions())


def test_workers_that_die_before_they_have_begun_end_it(go: Any, pool: Any, captions: Any) -> None:
    team = pool(lambda units: units is None)
    with pytest.raises(WorkerError, match=r"captions: 10 workers in a row died before .* \(the last: lightning"):
        go(team, captions())
    assert all(worker.stopped for worker in team.workers)


def test_an_error_in_a_worker_is_raised_here_and_what_was_complete_is_kept(
    run: Run, go: Any, pool: Any, captions: Any
) -> None:
    def odd(number: int) -> Any:
        if number == 20:
            raise ValueError("odd")
        return [Caption(f"k{number}", "text", "animals", "train")]

    with pytest.raises(ValueError, match="odd") as raised:
        go(pool(nobody), captions(odd))
    assert "in a worker" in raised.value.__notes__[0]
    assert {"u0", "u17"} <= set(run.list_made("captions")) and not run.find_done("captions", ["u18", "u20"])


def test_a_model_that_can_not_be_loaded_is_told(go: Any, pool: Any, captions: Any) -> None:
    def missing() -> None:
        raise ModelError("no model at 'x'")

    with pytest.raises(ModelError, match="no model at 'x'"):
        go(pool(nobody), captions(opening=missing))


def test_an_error_that_others_can_not_read_comes_as_its_text(go: Any, pool: Any, captions: Any) -> None:
    class OwnError(Exception):
        pass

    def own() -> None:
        raise OwnError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="OwnError: CUDA out of memory"):
        go(pool(nobody), captions(opening=own))


def test_failures_and_what_was_left_out_are_kept(run: Run, go: Any, pool: Any, captions: Any) -> None:
    def outcome(number: int) -> Any:
        if number % 10 == 1:
            return Skip("odd", "row 3")
        return Sifted([] if number % 10 == 2 else [Caption(f"k{number}", "text", "animals", "train")], {"long": 1})

    go(pool(nobody), captions(outcome), budget=0.1)
    assert run.list_skipped("captions") == [Skipped("captions", f"u{n}", "odd", "row 3") for n in (1, 11, 21, 31)]
    assert len(keys(run)) == 32 and run.count_dropped("captions") == {"long": 36}


def test_a_batch_that_does_not_fit_is_lowered_for_all_and_told_once(
    run: Run, go: Any, pool: Any, captions: Any
) -> None:
    told = Told()
    go(pool(nobody), captions(room=1), progress=told)
    lowered = "captions: out of memory: 1 images at a time instead of 4; memory.json remembers it"
    assert told.said == ["captions: loading in 2 workers", lowered]
    assert keys(run) == [f"k{number}" for number in range(40)]


def test_what_a_worker_found_damaged_is_set_aside(run: Run, go: Any, pool: Any, captions: Any) -> None:
    question = Question("q", "c", "Is it red?", "yes", "red", "color")
    run.commit("questions", {f"q{number}": [question] for number in range(40)}, Question.schema)
    (part,) = (run.path / "questions").iterdir()
    part.write_bytes(part.read_bytes()[:-1])

    def damaged(number: int) -> Any:
        raise StoreError("damaged")

    with pytest.raises(StoreError, match="it was quarantined"):
        go(pool(nobody), captions(damaged))
    assert set(run.list_made("questions")) == set()


def test_a_part_that_is_not_here_is_told(run: Run, go: Any, pool: Any, captions: Any) -> None:
    team = pool(nobody)
    start_worker = team.start_worker

    def elsewhere(plan: Any) -> Any:
        worker = start_worker(plan)
        do = worker.inner.do

        def lost(path: str, units: Any) -> Any:
            delivery = do(path, units)
            (run.path / path).unlink()
            return delivery

        worker.inner.do = lost
        return worker

    team.start_worker = elsewhere
    with pytest.raises(StoreError, match="here it is missing: every machine needs the run folder at this path"):
        go(team, captions())
    assert set(run.list_made("captions")) == set()


def test_workers_that_are_long_in_coming_are_told_of_once(
    go: Any, pool: Any, captions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agfsync.engine.pool.LOAD_SECONDS", 0.02)
    team, told = pool(nobody, 1), Told()
    start_worker = team.start_worker

    def late(plan: Any) -> Any:
        worker, future = start_worker(plan), Future[Any]()
        submit = worker.submit

        def later(method: str, *arguments: Any) -> Any:
            worker.submit = submit
            threading.Timer(0.2, lambda: future.set_result(submit(method, *arguments).result())).start()
            return future

        worker.submit = later
        return worker

    team.start_worker = late
    go(team, captions(), progress=told)
    assert told.said == ["captions: loading in 1 worker", "captions: in 0 s no worker has loaded its model: nothing"]


def test_a_worker_that_never_comes_is_not_waited_for(run: Run, go: Any, pool: Any, captions: Any) -> None:
    team = pool(nobody)
    start_worker = team.start_worker

    def one_only(plan: Any) -> Any:
        worker = start_worker(plan)
        if len(team.workers) > 1:
            worker.submit = lambda *_: Future()
        return worker

    team.start_worker = one_only
    go(team, captions())
    assert keys(run) == [f"k{number}" for number in range(40)]
    assert all(worker.stopped for worker in team.workers)


def test_units_are_gone_through_once_also_in_this_process(run: Run, captions: Any) -> None:
    begun: list[int] = []
    many = Stream(len(UNITS), lambda: begun.append(1) or iter(UNITS))  # type: ignore[func-returns-value]
    common = {"at_once": 3, "schema": Caption.schema, "progress": SilentProgress(), "budget": 0.0}
    run_job(run, "captions", many, captions(), engine=Engine(), **common)  # type: ignore[arg-type]
    assert len(begun) == 1 and keys(run) == [f"k{number}" for number in range(40)]

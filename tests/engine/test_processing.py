from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agfsync.engine import processing
from agfsync.engine.jobs import Outcome, Sifted, Skip, Undone, Unit
from agfsync.engine.processing import process_units, report_skipped
from agfsync.engine.progress import LogProgress, SilentProgress
from agfsync.errors import BudgetError
from agfsync.records import Caption
from agfsync.store import Run
from agfsync.store.manifest import Skipped

UNITS = [Unit(f"u{number}", number) for number in range(10)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.create(tmp_path / "run", "") as made:
        yield made


def caption(number: int) -> list[Caption]:
    return [Caption(f"k{number}", f"text {number}", "animals", "train")]


def go(run: Run, work: Any, budget: float = 0.0, **options: Any) -> None:
    common = {"batch": 3, "schema": Caption.schema, "progress": SilentProgress()}
    process_units(run, "captions", UNITS, work, budget=budget, **common | options)


def keys(run: Run) -> list[str]:
    run.select("captions", [unit.key for unit in UNITS])
    return [each.key for each in run.read("captions", Caption)]


def test_everything_is_done_once_and_in_order(run: Run) -> None:
    seen: list[int] = []

    def work(numbers: Sequence[int]) -> list[Outcome]:
        seen.extend(numbers)
        return [caption(number) for number in numbers]

    go(run, work)
    go(run, work)
    assert seen == list(range(10))
    assert keys(run) == [f"k{number}" for number in range(10)]


def test_what_was_done_before_is_told_though_it_comes_last(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processing, "LOOKED_UP", 2)
    run.commit("captions", {unit.key: caption(unit.payload) for unit in UNITS[6:]}, Caption.schema)
    go(run, lambda numbers: [caption(number) for number in numbers], progress=LogProgress())
    assert capsys.readouterr().err.startswith("captions: 10 of 10 captions, ")


def test_parts_are_committed_when_they_are_large_enough(run: Run) -> None:
    go(run, lambda numbers: [caption(number) for number in numbers], part_bytes=2250)
    assert len(list((run.path / "captions").iterdir())) == 4


def test_what_is_complete_is_kept_when_the_work_is_stopped(run: Run) -> None:
    def work(numbers: Sequence[int]) -> list[Outcome]:
        if 6 in numbers:
            raise KeyboardInterrupt
        return [caption(number) for number in numbers]

    with pytest.raises(KeyboardInterrupt):
        go(run, work)
    assert set(run.list_made("captions")) == {f"u{number}" for number in range(6)}


def test_units_that_fail_are_skipped_up_to_the_budget(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def work(numbers: Sequence[int]) -> list[Outcome]:
        return [Skip("odd", f"row {number}") if number % 4 == 1 else caption(number) for number in numbers]

    go(run, work, budget=0.3)
    skipped = run.list_skipped("captions")
    assert skipped == [Skipped("captions", f"u{n}", "odd", f"row {n}") for n in (1, 5, 9)]
    assert len(keys(run)) == 7
    run.finish("captions", "digest", 0.0, {})
    finished = run.find_finished("captions")
    assert finished is not None and (finished.rows, finished.skipped) == (7, 3)
    report_skipped(LogProgress(), "captions", skipped, 10)
    assert capsys.readouterr().err == "captions: 3 of 10 captions skipped: odd (row 1)\n"
    report_skipped(LogProgress(), "captions", [Skipped("captions", "k", "even", count=4), *skipped], 20, "rows")
    assert capsys.readouterr().err == "captions: 7 of 20 rows skipped: even, and 1 other reason\n"
    report_skipped(LogProgress(), "captions", [], 10)
    assert capsys.readouterr().err == ""


def test_what_another_table_of_the_stage_skips_does_not_count(run: Run) -> None:
    run.skip("captions_scores", "all", "too dark", count=100)
    go(run, lambda numbers: [caption(number) for number in numbers])
    assert len(keys(run)) == 10


def test_past_the_budget_the_stage_stops_and_says_why(run: Run) -> None:
    def work(numbers: Sequence[int]) -> list[Outcome]:
        return [Skip("odd") if number < 2 else caption(number) for number in numbers]

    with pytest.raises(BudgetError, match=r"captions: 2 of 10 captions skipped: odd; failure_budget is 0.1"):
        go(run, work, budget=0.1)
    assert set(run.list_made("captions")) == {"u2"}


def test_an_undone_unit_raises_its_cause_after_the_rest_of_its_batch_is_kept(run: Run) -> None:
    def work(numbers: Sequence[int]) -> list[Outcome | Undone]:
        return [Undone(BudgetError(f"cap at {n}")) if n in (0, 1) else caption(n) for n in numbers]

    with pytest.raises(BudgetError, match="cap at 0"):
        go(run, work)
    assert set(run.list_made("captions")) == {"u2"}
    go(run, lambda numbers: [caption(number) for number in numbers])
    assert len(keys(run)) == 10


def test_what_a_unit_leaves_out_is_counted(run: Run) -> None:
    go(run, lambda numbers: [Sifted(caption(number), {"odd": number % 2}) for number in numbers])
    keys(run)
    assert run.count_dropped("captions") == {"odd": 5}

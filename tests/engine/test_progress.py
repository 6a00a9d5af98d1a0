import io

import pytest
from rich.console import Console

from agfsync.engine.progress import (
    LogProgress,
    SilentProgress,
    TerminalProgress,
    format_duration,
    format_rate,
    make_progress,
)


def test_a_log_gets_lines_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with LogProgress(every=0.0).stage("candidates", 4, done=1) as task:
        task.advance(1, loss=0.5)
        task.advance(2)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("candidates: 2 of 4 captions, ")
    assert "/s, " in first and " left, loss 0.5" in first
    assert last.startswith("candidates: 4 of 4 captions, ")


def test_what_was_done_before_counts_for_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with LogProgress().stage("candidates", 10_000, done=1) as task:
        task.add_done(9000)
        task.advance(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("candidates: 9003 of 10000 captions, ")
    shown = io.StringIO()
    terminal = TerminalProgress(Console(file=shown, width=100, force_terminal=True, color_system=None))
    with terminal.stage("candidates", 10_000, done=1) as task:
        task.add_done(9998)
    assert "9999/10000" in shown.getvalue() and "/s" not in shown.getvalue()


@pytest.mark.parametrize(("total", "done", "found"), [(0, 0, 0), (7, 7, 0), (7, 2, 5)])
def test_a_stage_with_nothing_to_do_has_no_rate(
    capsys: pytest.CaptureFixture[str], total: int, done: int, found: int
) -> None:
    with LogProgress(every=0.0).stage("candidates", total, done=done) as task:
        task.add_done(found)
    assert capsys.readouterr().err == f"candidates: {total} of {total} captions\n"


def test_a_log_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with LogProgress().stage("candidates", 1000) as task:
        for _ in range(1000):
            task.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_gets_rate_and_time_at_any_width(width: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    terminal = TerminalProgress(console)
    with terminal.stage("scores: aesthetic", 1024) as task:
        task.advance(1024, loss=0.25)
    terminal.say("[not markup]")
    lines = shown.getvalue().replace("\r", "\n").splitlines()
    assert any("1024/1024" in line and "/s" in line for line in lines)
    assert "[not markup]" in shown.getvalue()
    assert ("loss 0.25" in shown.getvalue()) == (width == 100)


def test_without_a_terminal_progress_is_a_log() -> None:
    assert isinstance(make_progress(), LogProgress)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress().stage("candidates", 1) as task:
        task.advance()
    SilentProgress().say("nothing")
    assert capsys.readouterr() == ("", "")


def test_figures_are_short() -> None:
    assert [format_duration(each) for each in (6.6, 65, 7384)] == ["7s", "1:05", "2:03:04"]
    assert [format_rate(each) for each in (0.01234, 4.567, 1234.5)] == ["0.0123", "4.57", "1234"]

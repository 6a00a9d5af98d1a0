"""Progress of a stage: bars with rates and time left on a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Row
from rich.text import Text

LOG_SECONDS = 5.0
"""seconds between two lines of a log"""
NARROW = 70
"""columns of a terminal below which there is no room for a bar"""


class ProgressTask(Protocol):
    """The progress of a running stage."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Count `count` more units as done; `figures`, such as loss=0.69, are also shown."""
        ...

    def add_done(self, count: int) -> None:
        """Count `count` more units as done by an earlier run."""
        ...


class Progress(Protocol):
    """A receiver of progress and messages."""

    def stage(
        self, name: str, total: int, unit: str = "captions", done: int = 0
    ) -> AbstractContextManager[ProgressTask]:
        """Show the progress of a stage of `total` units within the context; an earlier run has done `done` of them."""
        ...

    def say(self, text: str) -> None:
        """Show a message."""
        ...


def make_progress() -> Progress:
    """Return a progress with bars if standard error is a terminal, else with lines."""
    return TerminalProgress(Console(stderr=True)) if sys.stderr.isatty() else LogProgress()


class SilentProgress:
    """A progress that shows nothing, for use as a library."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[ProgressTask]:
        yield self

    def say(self, text: str) -> None:
        """Do nothing."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Do nothing."""

    def add_done(self, count: int) -> None:
        """Do nothing."""


class LogProgress:
    """A progress with lines: at most one in `every` seconds, and one at the end of a stage."""

    def __init__(self, every: float = LOG_SECONDS) -> None:
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[ProgressTask]:
        task = _Lines(self, name, total, unit, done)
        yield task
        task.end()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @property
    def every(self) -> float:
        return self._every


class _Lines:
    def __init__(self, log: LogProgress, name: str, total: int, unit: str, done: int) -> None:
        self._log, self._name, self._total, self._unit = log, name, total, unit
        self._before, self._done = done, done
        self._begun = self._last_line = time.monotonic()
        self._figures: dict[str, float] = {}

    def advance(self, count: int = 1, **figures: float) -> None:
        self._done += count
        self._figures = figures
        if time.monotonic() - self._last_line >= self._log.every and self._done < self._total:
            self._print_line(f", {format_duration((self._total - self._done) / self._compute_rate())} left")

    def add_done(self, count: int) -> None:
        self._before += count
        self._done += count

    def end(self) -> None:
        self._print_line(f" in {format_duration(time.monotonic() - self._begun)}")

    def _compute_rate(self) -> float:
        return max(self._done - self._before, 1e-9) / max(time.monotonic() - self._begun, 1e-9)

    def _print_line(self, ending: str) -> None:
        self._last_line = time.monotonic()
        shown = "".join(f", {name} {value:.4g}" for name, value in self._figures.items())
        # A stage with nothing to do has no rate.
        rate = f", {format_rate(self._compute_rate())}/s{ending}" if self._done > self._before else ""
        self._log.say(f"{self._name}: {self._done} of {self._total} {self._unit}{rate}{shown}")


class TerminalProgress:
    """A progress with a bar for the running stage; only its figures on a narrow terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[ProgressTask]:
        with Bars(*_make_columns(self._console.width), console=self._console) as bars:
            row = bars.add_task(name, total=total, completed=done, unit=unit, before=done, figures="")
            yield _Bar(bars, row, done)
            bars.refresh()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Bar:
    def __init__(self, bars: Bars, row: TaskID, before: int) -> None:
        self._bars, self._row, self._before = bars, row, before

    def advance(self, count: int = 1, **figures: float) -> None:
        shown = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self._bars.update(self._row, advance=count, figures=shown)

    def add_done(self, count: int) -> None:
        self._before += count
        self._bars.update(self._row, advance=count, before=self._before)


class _RateColumn(ProgressColumn):
    """The rate of this run with the time left, or the time taken once the stage has ended."""

    def render(self, task: Row) -> Text:
        elapsed = task.elapsed or 0.0
        rate = (task.completed - task.fields["before"]) / elapsed if elapsed else 0.0
        if not rate:
            return Text("")
        time_ = format_duration(elapsed) if task.finished else f"{format_duration((task.remaining or 0) / rate)} left"
        return Text(f"{format_rate(rate)}/s {time_}", style="cyan")


def _make_columns(width: int) -> list[ProgressColumn]:
    name = TextColumn("{task.description}", markup=False)
    if width < NARROW:
        return [name, TextColumn("{task.completed:.0f}/{task.total:.0f}"), _RateColumn()]
    count = TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}")
    return [name, BarColumn(bar_width=None), count, _RateColumn(), TextColumn("{task.fields[figures]}", style="dim")]


def format_rate(rate: float) -> str:
    """Return `rate` with three significant digits.

    >>> format_rate(0.01234), format_rate(4.56), format_rate(1234.4)
    ('0.0123', '4.56', '1234')
    """
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def format_duration(seconds: float) -> str:
    """Return `seconds` as seconds, minutes or hours.

    >>> format_duration(7), format_duration(65), format_duration(7384)
    ('7s', '1:05', '2:03:04')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole}s"

"""How far a stage is: bars with rates and time left on a terminal, lines in a log."""

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

EVERY = 5.0
"""seconds between two lines of a log"""
NARROW = 70
"""columns of a terminal below which there is no room for a bar"""


class Task(Protocol):
    """A stage at work."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` more are done; `figures` are shown beside, such as loss=0.69."""
        ...

    def found(self, count: int) -> None:
        """`count` more turn out to be done, from an earlier run."""
        ...


class Progress(Protocol):
    """Whoever is told how far things are."""

    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> AbstractContextManager[Task]:
        """Begin `name`, which has `total` units, `done` of them from an earlier run."""
        ...

    def say(self, text: str) -> None:
        """Tell something in passing."""
        ...


def progress() -> Progress:
    """Bars where standard error is a terminal, lines where it is a log."""
    return Terminal(Console(stderr=True)) if sys.stderr.isatty() else Log()


class Silent:
    """Tells nobody; for use as a library."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[Task]:
        yield self

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Nothing."""

    def found(self, count: int) -> None:
        """Nothing."""


class Log:
    """Lines, at most one each `every` seconds and one at the end of a stage."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[Task]:
        task = _Lines(self, name, total, unit, done)
        yield task
        task.end()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @property
    def every(self) -> float:
        return self._every


class _Lines:
    def __init__(self, log: Log, name: str, total: int, unit: str, done: int) -> None:
        self._log, self._name, self._total, self._unit = log, name, total, unit
        self._before, self._done = done, done
        self._begun = self._said = time.monotonic()
        self._figures: dict[str, float] = {}

    def advance(self, count: int = 1, **figures: float) -> None:
        self._done += count
        self._figures = figures
        if time.monotonic() - self._said >= self._log.every and self._done < self._total:
            self._say(f", {clock((self._total - self._done) / self._rate())} left")

    def found(self, count: int) -> None:
        self._before += count
        self._done += count

    def end(self) -> None:
        self._say(f" in {clock(time.monotonic() - self._begun)}")

    def _rate(self) -> float:
        return max(self._done - self._before, 1e-9) / max(time.monotonic() - self._begun, 1e-9)

    def _say(self, ending: str) -> None:
        self._said = time.monotonic()
        shown = "".join(f", {name} {value:.4g}" for name, value in self._figures.items())
        # What did nothing, because there was nothing to do or all was done, has no rate.
        rate = f", {pace(self._rate())}/s{ending}" if self._done > self._before else ""
        self._log.say(f"{self._name}: {self._done} of {self._total} {self._unit}{rate}{shown}")


class Terminal:
    """A bar for the stage at work; without the bar itself where the terminal is narrow."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "captions", done: int = 0) -> Iterator[Task]:
        with Bars(*_columns(self._console.width), console=self._console) as bars:
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

    def found(self, count: int) -> None:
        self._before += count
        self._bars.update(self._row, advance=count, before=self._before)


class _Pace(ProgressColumn):
    """Rate of this run, and time left; once the stage has ended, the time that it took."""

    def render(self, task: Row) -> Text:
        elapsed = task.elapsed or 0.0
        rate = (task.completed - task.fields["before"]) / elapsed if elapsed else 0.0
        if not rate:
            return Text("")
        time_ = clock(elapsed) if task.finished else f"{clock((task.remaining or 0) / rate)} left"
        return Text(f"{pace(rate)}/s {time_}", style="cyan")


def _columns(width: int) -> list[ProgressColumn]:
    name = TextColumn("{task.description}", markup=False)
    if width < NARROW:
        return [name, TextColumn("{task.completed:.0f}/{task.total:.0f}"), _Pace()]
    count = TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}")
    return [name, BarColumn(bar_width=None), count, _Pace(), TextColumn("{task.fields[figures]}", style="dim")]


def pace(rate: float) -> str:
    """`rate` in three digits: 0.0123, 4.56 or 1234."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """`seconds` as 7s, 1:05 or 2:03:04."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole}s"

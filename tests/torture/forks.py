"""Children of a process that has imported everything, so that a command costs no start of an interpreter.

The parent itself touches no model, no table and no database: what has threads doesn't live on in a fork.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Task = Callable[[], Any]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal; what it wrote to both outputs; seconds."""

    code: int
    said: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines that tell of an error."""
        return [line for line in self.said.splitlines() if line.startswith("error:")]

    def is_plain(self) -> bool:
        """Whether it ended well, or with one clear line of what the user can mend."""
        if "Traceback" in self.said:
            return False
        return self.code == 0 or (self.code == 2 and len(self.errors) == 1)


def command(arguments: Sequence[str], before: Task | None = None, after: Task | None = None) -> Ended:
    """Types `agfsync ARGUMENTS` in a child, in which `before` and `after` are called."""
    with typed(arguments, before, after) as child:
        return child.wait()


@dataclass
class Child:
    """A command at work."""

    number: int
    said: Path
    begun: float

    def kill(self) -> None:
        os.kill(self.number, signal.SIGKILL)

    def is_at_work(self) -> bool:
        return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    def kill_at(self, moment: float) -> bool:
        """Kills it when it is still at work at `moment`, by the monotonic clock; whether it was."""
        while self.is_at_work():
            if (left := moment - time.monotonic()) <= 0:
                self.kill()
                return True
            time.sleep(min(left, 0.002))
        return False

    def wait(self) -> Ended:
        _, status = os.waitpid(self.number, 0)
        text = self.said.read_text(errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - self.begun)


@contextmanager
def typed(arguments: Sequence[str], before: Task | None = None, after: Task | None = None) -> Iterator[Child]:
    """The command while it is at work."""
    with tempfile.NamedTemporaryFile(prefix="torture-") as file:
        begun = time.monotonic()
        number = os.fork()
        if number == 0:
            _become(arguments, file.fileno(), before, after)
        yield Child(number, Path(file.name), begun)


def _become(arguments: Sequence[str], said: int, before: Task | None, after: Task | None) -> None:
    code = 70
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        from agfsync.cli import main

        if before is not None:
            before()
        code = main(list(arguments))
        if after is not None:
            after()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def forked(task: Task) -> Any:
    """What `task` returns, as JSON can hold it, done in a child."""
    (result,) = at_once([task], 1)
    return result


def at_once(tasks: Sequence[Task], jobs: int) -> list[Any]:
    """What each of `tasks` returns, done in `jobs` children, each of which takes every `jobs`th."""
    ends = [_worker(tasks[first::jobs]) for first in range(min(jobs, len(tasks)))]
    results: list[Any] = [None] * len(tasks)
    for first, (number, end) in enumerate(ends):
        with os.fdopen(end, encoding="utf-8") as pipe:
            lines = pipe.read().splitlines()
        os.waitpid(number, 0)
        some = [json.loads(line) for line in lines]
        if len(some) != len(tasks[first::jobs]):
            raise RuntimeError("a child of the attack itself died: see above")
        results[first::jobs] = some
    return results


def _worker(tasks: Sequence[Task]) -> tuple[int, int]:
    """A child that does `tasks`: its number, and where its results can be read, a line each."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    number = os.fork()
    if number:
        os.close(writing)
        return number, reading
    try:
        os.close(reading)
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            for task in tasks:
                print(json.dumps(task()), file=pipe, flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

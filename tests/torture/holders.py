"""Two processes on one run folder: who is second is told who holds it; a dead holder's lock is taken over."""

import os
import subprocess
import sys
from pathlib import Path

from tests.torture.rows import Row

HOLD = """
import sys; from pathlib import Path; from agfsync.store import Run
run = Run.open(Path(sys.argv[1]), writing=True); print("held", flush=True); sys.stdin.read()
"""


def attack(folder: Path, times: int) -> list[Row]:
    """Let processes of their own compete for a run, each way so many `times`."""
    path = folder / "held"
    _typed("from agfsync.store import Run; Run.create(Path(sys.argv[1]), 'name: held').close()", path)
    faults: list[str] = []
    for _ in range(times):
        faults += _second_is_told(path) + _dead_is_replaced(path)
    faults += _number_reused(path)
    return [
        Row(
            "two processes on one run folder",
            2 * times + 1,
            len(faults),
            "the second gets a message; a dead one's lock is free",
            tuple(faults),
        )
    ]


def _second_is_told(path: Path) -> list[str]:
    with _holder(path) as holder:
        told = _typed("from agfsync.store import Run; Run.open(Path(sys.argv[1]), writing=True)", path)
        holder.kill()
    return [] if f"{path} is in use by process {holder.pid} on " in told else [f"the second was told: {told[-300:]}"]


def _dead_is_replaced(path: Path) -> list[str]:
    """The one before was killed with SIGKILL, and its number still stands in the file."""
    assert (path / "lock").read_text()
    told = _typed("from agfsync.store import Run; Run.open(Path(sys.argv[1]), writing=True).close()", path)
    return [f"a dead holder's lock isn't free: {told[-300:]}"] if told else []


def _number_reused(path: Path) -> list[str]:
    """The number in the file is that of a process which is alive and has nothing to do with it: ours."""
    (path / "lock").write_text(f"{os.getpid()} on here")
    return _dead_is_replaced(path)


def _holder(path: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def _typed(program: str, path: Path) -> str:
    """What a process says in which `program` runs; nothing where all is well."""
    whole = f"import sys; from pathlib import Path; {program}"
    return subprocess.run([sys.executable, "-c", whole, str(path)], capture_output=True, text=True, check=False).stderr

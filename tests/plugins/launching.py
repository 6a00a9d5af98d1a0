"""Two processes of one command, as a launcher starts them, forked from one that has imported everything already.

`accelerate launch` and its two processes import torch three times, which takes longer than the training of a test.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

IMPORTED = (
    "diffusers",
    "doubles",
    "accelerate",
    "agfsync.cli",
    "agfsync.models.stable_diffusion",
    "agfsync.pipeline",
    "agfsync.stages.training",
    "agfsync.training.loop",
    "agfsync.training.processes",
    "launching",
)
SERVER = get_context("forkserver")


class ForkedPair:
    """The command in two processes; its methods are those of `subprocess.Popen`."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        SERVER.set_forkserver_preload(list(IMPORTED))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self._outputs = [(folder / f"out-{port}-{rank}", folder / f"error-{port}-{rank}") for rank in (0, 1)]
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._processes = []
        for rank, outputs in enumerate(self._outputs):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | common
            process = SERVER.Process(target=_work, args=(arguments, place, outputs), daemon=True)
            process.start()
            self._processes.append(process)
        self.returncode: int | None = None

    def workers(self) -> dict[str, int]:
        """Return the processes' ids by their ranks."""
        return {str(rank): process.pid for rank, process in enumerate(self._processes) if process.pid is not None}

    def poll(self) -> int | None:
        """Return the exit code once both have ended: the first that isn't 0."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for both, and return what they have printed."""
        until = None if timeout is None else time.monotonic() + timeout
        for process in self._processes:
            process.join(None if until is None else max(0.0, until - time.monotonic()))
        self.returncode = self.poll()
        out, error = ("".join(path.read_text() for path in paths) for paths in zip(*self._outputs, strict=True))
        if self.returncode is None:
            for process in self._processes:
                process.kill()
            raise subprocess.TimeoutExpired("agfsync", timeout or 0.0, out, error)
        return out, error


def _work(arguments: Sequence[str], environment: dict[str, str], outputs: tuple[Path, Path]) -> None:
    for number, path in enumerate(outputs, start=1):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ |= environment
    from agfsync.cli import main

    code = 1
    try:
        code = main(list(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

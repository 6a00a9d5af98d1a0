"""A finished run typed again: no model is called, no byte changes, and it takes how long?"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.torture.ground import Ground
from tests.torture.rows import Row

MODELS = {"torch", "transformers", "diffusers", "openai"}
"""What would have to be imported for a model to be called."""


def attack(ground: Ground, times: int) -> list[Row]:
    """Type the command so many `times`, in interpreters of their own, and once more to see what it imports."""
    run = ground.undisturbed
    before, faults, seconds = _state(run), list[str](), list[float]()
    for _ in range(times):
        begun = time.monotonic()
        faults += _typed([sys.executable, "-m", "agfsync", *ground.arguments(run)])
        seconds.append(time.monotonic() - begun)
    faults += _typed([sys.executable, "-c", _importing(ground.arguments(run))])
    faults += [f"{path} has changed" for path, state in _state(run).items() if before.get(path) != state]
    told = f"best {min(seconds):.2f} s, worst {max(seconds):.2f} s of {times}, with the interpreter's start"
    return [Row("finished run typed again", times + 1, len(faults), told, tuple(faults))]


def _typed(arguments: list[str]) -> list[str]:
    plugins = str(Path(__file__).parents[1] / "plugins")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    return [f"ended with {done.returncode}: {done.stderr[-300:]}"] if done.returncode else []


def _importing(arguments: list[str]) -> str:
    """A program that types the command and fails where something was imported that could be asked for work."""
    return (
        f"import sys; from agfsync.cli import main; code = main({arguments!r});"
        f"sys.exit(code or ', '.join({MODELS!r} & set(sys.modules)) or 0)"
    )


def _state(run: Path) -> dict[str, tuple[str, int]]:
    """Each file's bytes and time of change."""
    return {
        path.relative_to(run).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }

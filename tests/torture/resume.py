"""A run of the paper's size, its candidates finished, of tiny images: when does new work begin, in what memory?"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.torture.rows import Row

PER_CAPTION = 8
PROGRAM = "import sys; from tests.torture.resume import {0}; {0}(sys.argv[1:])"


def attack(folder: Path, captions: int, *, at_half: bool = True) -> list[Row]:
    """Measure at the whole size, and `at_half` of it: memory that doesn't grow with the run is the same at both."""
    whole = _measured(folder / f"resume-{captions}", captions)
    told = _describe(whole)
    if at_half:
        told += f"; at half of the size: {_describe(_measured(folder / f'resume-{captions // 2}', captions // 2))}"
    return [Row("resume with the candidates finished", PER_CAPTION * captions, 0, told)]


def _describe(measured: dict[str, float]) -> str:
    return (
        f"first new work after {measured['work']:.1f} s, {_mib(measured['peak'])}; with half of the scores done after"
        f" {measured['halfway']:.1f} s; on to the pairs {_mib(measured['rest'])}; nothing to do:"
        f" {measured['idle']:.1f} s"
    )


def _mib(kib: float) -> str:
    return f"{kib / 1024:.0f} MiB"


def _measured(folder: Path, captions: int) -> dict[str, float]:
    """Seconds, with the interpreter's start: for nothing to do, until the first score, until that of the second half.

    And the peak of memory in KiB: at the first score, and after all of them and the pairs.
    """
    folder.mkdir()
    (folder / "prompts.txt").write_text("".join(f"a thing with the number {n}\n" for n in range(captions + 4)))
    recipe = folder / "resumed.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(folder / "prompts.txt", captions)))
    command = ["run", str(recipe), "--out", str(folder / "run"), "--until"]
    _typed("typed", [*command, "candidates"])
    idle = time.time()
    _typed("typed", [*command, "candidates"])
    begun = time.time()
    ended, peak = _typed("until_work", [*command, "scores"]).split()[-2:]
    _typed("until_half", [*command, "scores", str(PER_CAPTION * captions // 2)])
    again = time.time()
    halfway, _ = _typed("until_work", [*command, "scores"]).split()[-2:]
    rest = _typed("weighed", [*command, "pairs"]).split()[-1]
    return {
        "idle": begun - idle,
        "work": float(ended) - begun,
        "halfway": float(halfway) - again,
        "peak": float(peak),
        "rest": float(rest),
    }


def _recipe(prompts: Path, captions: int) -> dict[str, Any]:
    return {
        "name": "resumed",
        "captions": {"source": str(prompts), "count": captions, "held_out": 4},
        "questions": {"writer": "double", "rounds": 1},
        "model": {"type": "double", "path": "none"},
        "candidates": {"per_caption": PER_CAPTION},
        "scorers": {"red": {"type": "double", "path": "none"}},
        "pairs": {"choose": {"weights": {"red": 1.0}}},
    }


def _typed(function: str, arguments: Sequence[str]) -> str:
    """What an interpreter of its own prints."""
    plugins = str(Path(__file__).parents[1] / "plugins")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")])}
    program = [sys.executable, "-c", PROGRAM.format(function), *arguments]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} {' '.join(arguments)} failed: {done.stderr[-500:]}")
    return done.stdout


def typed(arguments: Sequence[str]) -> None:
    """The command, with images of one pixel that take no time."""
    sys.exit(_run(arguments))


def weighed(arguments: Sequence[str]) -> None:
    """The same; prints the peak of memory in KiB at its end."""
    code = _run(arguments)
    print(_peak(), flush=True)
    sys.exit(code)


def until_work(arguments: Sequence[str]) -> None:
    """The command, until its first scorer is asked for something: prints the time, and the peak of memory in KiB."""
    import doubles

    def ask(*_: Any) -> None:
        print(time.time(), _peak(), flush=True)
        os._exit(0)

    doubles.Brightness.score = ask  # type: ignore[assignment]
    sys.exit(_run(arguments))


def until_half(arguments: Sequence[str]) -> None:
    """The command, until it has scored as many images as its last argument says, and what is scored is committed."""
    import doubles

    left = int(arguments[-1])
    score = doubles.Brightness.score

    def counted(scorer: Any, items: Sequence[Any]) -> Any:
        nonlocal left
        if left <= 0:
            raise KeyboardInterrupt
        left -= len(items)
        return score(scorer, items)

    doubles.Brightness.score = counted  # type: ignore[method-assign, assignment]
    _run(arguments[:-1])


def _run(arguments: Sequence[str]) -> int:
    import doubles
    from PIL import Image

    from agfsync.cli import main

    def draw(_: Any, prompts: Sequence[str], seeds: Sequence[int], __: float) -> list[Image.Image]:
        return [Image.new("RGB", (1, 1), (seed % 256, 0, 0)) for seed in seeds]

    doubles.PAUSE = 0
    doubles.Generator.draw = draw  # type: ignore[method-assign, assignment]
    return main(list(arguments))


def _peak() -> int:
    """Not getrusage's: that begins with what the process held that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak)

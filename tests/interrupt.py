"""Kills a run with SIGKILL at random moments, types the same command again, and compares the pairs of both.

python tests/interrupt.py shapes --kills 20
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agfsync.records import Pair
from agfsync.store import Run


@dataclass(frozen=True)
class Outcome:
    """Pairs of the undisturbed run, those of each run that was disturbed, and how many kills hit one at work."""

    expected: list[Pair]
    found: list[list[Pair]]
    kills: int


def interrupt(
    recipe: str, folder: Path, kills: int, seed: int = 0, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Disturb runs of `recipe` below `folder` until `kills` kills have hit one at work; then let the last one end."""
    rng = random.Random(seed)
    begun = time.monotonic()
    expected = _undisturbed(recipe, folder / "undisturbed", environment)
    each = 2 * (time.monotonic() - begun) / kills
    found: list[list[Pair]] = []
    hit = runs = 0
    while hit < kills:
        run = folder / f"disturbed-{runs}"
        if _killed(recipe, run, rng.uniform(0, each), environment):
            hit += 1
        else:
            found.append(pairs(run))
            runs += 1
    found.append(_undisturbed(recipe, folder / f"disturbed-{runs}", environment))
    return Outcome(expected, found, hit)


def pairs(run: Path) -> list[Pair]:
    """The run's pairs, in order."""
    with Run.open(run, writing=False) as opened:
        return list(opened.read("pairs", Pair))


def _command(recipe: str, run: Path) -> Sequence[str]:
    return [sys.executable, "-m", "agfsync", "run", recipe, "--out", str(run), "--until", "pairs"]


def _undisturbed(recipe: str, run: Path, environment: Mapping[str, str] | None) -> list[Pair]:
    subprocess.run(_command(recipe, run), check=True, env=environment, capture_output=True)
    return pairs(run)


def _killed(recipe: str, run: Path, after: float, environment: Mapping[str, str] | None) -> bool:
    """Whether the run was still at work `after` seconds after it had opened its folder, when it was killed."""
    process = subprocess.Popen(
        _command(recipe, run), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and _holder(run) != str(process.pid):
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _holder(run: Path) -> str:
    lock = run / "lock"
    return lock.read_text() if lock.exists() else ""


def main() -> int:
    """Say whether every disturbed run ended with the undisturbed run's pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="shapes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = interrupt(given.recipe, Path(folder), given.kills, given.seed)
    differing = sum(
        asdict(a) != asdict(b) for each in outcome.found for a, b in zip(outcome.expected, each, strict=False)
    )
    equal = all(each == outcome.expected for each in outcome.found)
    print(
        f"{outcome.kills} kills, {len(outcome.found)} runs of {len(outcome.expected)} pairs, {differing} pairs differ"
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())

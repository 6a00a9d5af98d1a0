"""Attacks on the run folder; every figure in one table, with what was tried and what was lost.

python -m tests.torture                        all of them, about an hour on two cores
python -m tests.torture kills --kills 50       one of them
python -m tests.torture --small                what the test suite runs
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.torture import again, faults, flips, holders, kills, resume, seeds
from tests.torture.ground import LONG, SHORT, Ground, lay, small_parts
from tests.torture.odometer import Odometer
from tests.torture.rows import Row, as_markdown, as_text

PLUGINS = Path(__file__).parents[1] / "plugins"
IMPORTED = (
    "diffusers",
    "doubles",
    "agfsync.training.loop",
    "agfsync.models.stable_diffusion",
    "agfsync.pipeline",
    *(f"agfsync.stages.{name}" for name in ("captions", "questions", "candidates", "scores", "pairs")),
    *(f"agfsync.stages.{name}" for name in ("training", "evaluation", "report")),
)
"""What a command would import, imported once."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""One thread: what has many of them doesn't live on in a fork."""


@dataclass(frozen=True)
class Session:
    """What was asked for. The ground is laid for the first attack that wants it."""

    given: argparse.Namespace
    folder: Path

    @cached_property
    def _odometer(self) -> Odometer:
        """Installed in this process, which has imported what a command needs."""
        for module in IMPORTED:
            importlib.import_module(module)
        small_parts()
        odometer = Odometer()
        odometer.install()
        return odometer

    @cached_property
    def _short(self) -> Ground:
        assert self._odometer
        return lay(self.folder, self.given.jobs, SHORT)

    def faults(self) -> list[Row]:
        if faults.layer() is None:
            return [Row("disk faults", 0, 0, "left out: there is no C compiler")]
        return faults.attack(self._short, self.given.share, self.given.every_way, self.given.seed)

    def kills(self) -> list[Row]:
        self._odometer.reset()
        ground = lay(self.folder, self.given.jobs, LONG)
        spent = self._odometer.spent(time.monotonic())
        return kills.attack(ground, self._odometer, spent, self.given.kills, self.given.seed)

    def flips(self) -> list[Row]:
        return flips.attack(self._short, self.given.flips, self.given.seed)

    def holders(self) -> list[Row]:
        return holders.attack(self.folder, self.given.times)

    def again(self) -> list[Row]:
        return again.attack(self._short, self.given.times)

    def resume(self) -> list[Row]:
        return resume.attack(self.folder, self.given.captions, at_half=not self.given.small)

    def seeds(self) -> list[Row]:
        assert self._odometer
        return seeds.attack(self.folder, self.given.drawn, self.given.jobs)


ATTACKS: dict[str, Callable[[Session], list[Row]]] = {
    "faults": Session.faults,
    "kills": Session.kills,
    "flips": Session.flips,
    "holders": Session.holders,
    "again": Session.again,
    "resume": Session.resume,
    "seeds": Session.seeds,
}
FULL = {"share": 1.0, "kills": 300, "flips": 400, "captions": 45_750, "drawn": 48, "times": 5}
SMALL = {"share": 0.006, "kills": 12, "flips": 10, "captions": 100, "drawn": 1, "times": 1}

SLOW = "seeds"
"""Left out of the smaller version: real models, for which the tests of the generators stand in."""


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was lost."""
    given = _parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        if "faults" in given.attacks and faults.layer() is None and faults.compiler():
            # The layer must be there before Python is: it is this command again that then attacks.
            layered = {**os.environ, "LD_PRELOAD": str(faults.compiled(Path(folder)))}
            return subprocess.run(
                [sys.executable, "-m", "tests.torture", *arguments], env=layered, check=False
            ).returncode
        return _attack(given, Session(given, Path(folder)))


def _attack(given: argparse.Namespace, session: Session) -> int:
    begun = time.monotonic()
    rows = list(_rows(given, session))
    print(as_markdown(rows) if given.markdown else as_text(rows))
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes", file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps([row.plain() for row in rows]))
    return 1 if any(row.lost for row in rows) else 0


def _rows(given: argparse.Namespace, session: Session) -> Iterator[Row]:
    for name in given.attacks:
        begun = time.monotonic()
        yield from ATTACKS[name](session)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"default: all, {', '.join(ATTACKS)}")
    parser.add_argument("--small", action="store_true", help="a smaller version of each")
    parser.add_argument("--share", type=float, help="faults: of all calls, which share fails")
    parser.add_argument("--every-way", action="store_true", help="faults: each call in each way, instead of in turn")
    parser.add_argument("--kills", type=int, help="kills: how many at least")
    parser.add_argument("--flips", type=int, help="flips: how many bits")
    parser.add_argument("--captions", type=int, help="resume: of how many captions, 8 candidates each")
    parser.add_argument("--drawn", type=int, help="seeds: how many captions are drawn")
    parser.add_argument("--times", type=int, help="holders, again: how often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="attacks at a time")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--json", type=Path, help="the table for programs, as a file")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.attacks if name not in ATTACKS]:
        parser.error(f"no attack is called {unknown[0]}: there are {', '.join(ATTACKS)}")
    given.attacks = given.attacks or [name for name in ATTACKS if not (given.small and name == SLOW)]
    for name, value in (SMALL if given.small else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    sys.path.insert(0, str(PLUGINS))
    sys.exit(main(sys.argv[1:]))

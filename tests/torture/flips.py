"""A bit is flipped anywhere in any file of a finished run; the next command says so and makes anew what it can."""

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.forks import at_once, command, forked
from tests.torture.ground import Findings, Ground, differences, findings
from tests.torture.rows import Row

PART, FILE, STATE, DATABASE = "a part", "a model or report", "a checkpoint or encoded pairs", "run.db"
OTHER = "another file"
SHARES = {PART: 0.6, FILE: 0.1, STATE: 0.1, DATABASE: 0.1, OTHER: 0.1}
"""Of the flips."""
TOLD = {"recipe.yaml", "training/metrics.jsonl"}
"""What nobody can make anew: a line is all there is."""


@dataclass(frozen=True)
class Flip:
    """The bit number `bit` of the file `path` of the run folder."""

    path: str
    bit: int

    def on(self, run: Path) -> None:
        data = bytearray((run / self.path).read_bytes())
        data[self.bit // 8] ^= 1 << self.bit % 8
        (run / self.path).write_bytes(data)


@dataclass(frozen=True)
class Attack:
    ground: Ground
    expected: Findings

    def once(self, flip: Flip) -> dict[str, Any]:
        """One flip in a copy of the finished run, and the next command, typed again where it says so."""
        run = self.ground.copy("flipped")
        flip.on(run)
        if kind_of(flip.path) == STATE:
            # A finished run reads them no more: one that has lost its model does.
            forked(lambda: _reopen(run))
            shutil.rmtree(run / "model")
        first = command(self.ground.arguments(run))
        named = flip.path in first.said
        plain, code = first.is_plain(), first.code
        if code == 2 and flip.path != "recipe.yaml":
            code = command(self.ground.arguments(run)).code
        wrong = [] if plain else [f"ended with {first.code}: {first.said[-300:]}"]
        if flip.path in TOLD and (named or first.code == 2):
            shutil.rmtree(run)
            return {"named": True, "wrong": wrong}
        wrong += [] if code == 0 or not plain else [f"still ends with {code}: {first.said[-300:]}"]
        wrong += differences(self.expected, findings(run)) if not wrong else []
        wrong += [] if named or kind_of(flip.path) not in (PART, FILE, DATABASE) else ["wasn't named"]
        shutil.rmtree(run)
        return {"named": named, "wrong": [f"{flip.path}, bit {flip.bit}: {each}" for each in wrong]}


def attack(ground: Ground, flips: int, seed: int) -> list[Row]:
    """Of each kind of file its share of `flips`, and at least one in every part."""
    rng = random.Random(seed)
    attack_ = Attack(ground, findings(ground.undisturbed))
    there = [path.relative_to(ground.undisturbed).as_posix() for path in sorted(ground.undisturbed.rglob("*"))]
    files = [path for path in there if (ground.undisturbed / path).is_file() and kind_of(path)]
    chosen = [
        _flip(ground.undisturbed, path, rng)
        for kind, share in SHARES.items()
        for path in _dealt([each for each in files if kind_of(each) == kind], max(1, round(share * flips)), rng)
    ]
    results = at_once([lambda flip=flip: attack_.once(flip) for flip in chosen], ground.jobs)
    return [
        _row(kind, [(f, r) for f, r in zip(chosen, results, strict=True) if kind_of(f.path) == kind]) for kind in SHARES
    ]


def kind_of(path: str) -> str:
    """What `path` of a run folder is; nothing for the lock, and for what people may edit."""
    if path == "lock" or path.endswith(".md"):
        return ""
    if path.endswith(".parquet"):
        return PART
    if path.startswith("model/") or path == "report.html":
        return FILE
    if path.startswith("training/") and path.endswith(".safetensors"):
        return STATE
    return DATABASE if path == "run.db" else OTHER


def _dealt(files: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` of the files: each once before any comes twice."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += rng.sample(files, len(files))
    return dealt[:count]


def _flip(run: Path, path: str, rng: random.Random) -> Flip:
    return Flip(path, rng.randrange(8 * (run / path).stat().st_size))


def _row(kind: str, results: Sequence[tuple[Flip, dict[str, Any]]]) -> Row:
    wrong = [each for _, result in results for each in result["wrong"]]
    files = len({flip.path for flip, _ in results})
    named = Counter(result["named"] for _, result in results)[True]
    return Row(f"bit flipped in {kind}", len(results), len(wrong), f"{files} files; named {named} times", tuple(wrong))


def _reopen(run: Path) -> None:
    from agfsync.store import Run

    with Run.open(run, writing=True) as opened:
        opened.reopen("training")

"""The run that is attacked: all stages, a few seconds, many small parts; and what it made, to hold others against."""

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.torture.forks import command, forked

TABLES = (
    "captions",
    "questions",
    "candidates",
    "scores",
    "pairs",
    "evaluation_images",
    "evaluation_scores",
    "evaluation",
)
PART_BYTES = 20_000
"""A part is committed from this size on, so that there are many."""

Findings = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much there is to do."""

    captions: int
    held_out: int
    per_caption: int
    steps: int
    checkpoint_every: int


LONG = Size(captions=24, held_out=6, per_caption=4, steps=12, checkpoint_every=3)
"""A few seconds, to be killed in."""
SHORT = Size(captions=4, held_out=2, per_caption=3, steps=2, checkpoint_every=1)
"""As little as has every kind of part, file and transaction more than once."""


@dataclass(frozen=True)
class Ground:
    """The folder of the attacks, with the recipe in it, and how an undisturbed run of it ended."""

    folder: Path
    jobs: int = 1

    @property
    def recipe(self) -> Path:
        return self.folder / "attacked.yaml"

    @property
    def undisturbed(self) -> Path:
        return self.folder / "undisturbed"

    def arguments(self, run: Path) -> list[str]:
        """The command that is typed again and again."""
        return ["run", str(self.recipe), "--out", str(run)]

    def fresh(self, name: str) -> Path:
        """A folder for a run, which isn't there."""
        run = self.folder / f"{name}-{os.getpid()}"
        shutil.rmtree(run, ignore_errors=True)
        return run

    def copy(self, name: str) -> Path:
        """A copy of the undisturbed run."""
        run = self.fresh(name)
        shutil.copytree(self.undisturbed, run)
        return run


def lay(folder: Path, jobs: int, size: Size) -> Ground:
    """The ground in a folder of its own in `folder`, with the undisturbed run."""
    ground = Ground(folder / f"ground-{size.captions}", jobs)
    ground.folder.mkdir()
    forked(lambda: _save_generator(ground.folder / "generator"))
    ground.recipe.write_text(yaml.safe_dump(_recipe(ground.folder / "generator", size)))
    ended = command(ground.arguments(ground.undisturbed))
    if ended.code != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{ended.said}")
    return ground


def _save_generator(folder: Path) -> None:
    from tiny_diffusion import pipeline

    pipeline().save_pretrained(folder)


def _recipe(generator: Path, size: Size) -> dict[str, Any]:
    return {
        "name": "attacked",
        "captions": {"writer": "double", "count": size.captions, "held_out": size.held_out},
        "questions": {"writer": "double", "rounds": 2},
        "model": {"type": "stable-diffusion", "path": str(generator), "device": "cpu", "sampling": {"steps": 2}},
        "candidates": {"per_caption": size.per_caption},
        "scorers": {
            "red": {"type": "double", "path": "none"},
            "vqa": {"type": "asking", "path": "none"},
            "oracle": {"type": "double", "path": "none"},
        },
        "scores": {"batch": 7},
        "pairs": {"choose": {"weights": {"red": 1.0, "vqa": 0.5}}},
        "training": {
            "steps": size.steps,
            "batch": 3,
            "learning_rate": 1e-3,
            "checkpoint_every": size.checkpoint_every,
            "precision": "fp32",
            "method": {"beta": 500.0},
        },
        "evaluation": {"resamples": 100, "batch": 4},
    }


def small_parts() -> None:
    """Lets a part be committed long before it is as large as on a real run."""
    from agfsync.engine.processing import process_units

    assert process_units.__kwdefaults__ is not None
    process_units.__kwdefaults__["part_bytes"] = PART_BYTES


def findings(run: Path) -> Findings:
    """What the run at `run` holds, in a child: the digest of each table, what lies twice, the curve, the model."""
    found: Findings = forked(lambda: _findings(run))
    return found


def differences(expected: Findings, found: Findings) -> list[str]:
    """What of `found` isn't as in `expected`."""
    told = [_difference(name, expected[name], found[name]) for name in expected if found[name] != expected[name]]
    return told + [f"{name} lies twice" for name in found["twice"]] + [f"{name} left over" for name in found["left"]]


def _difference(name: str, expected: Any, found: Any) -> str:
    if isinstance(expected, dict):
        keys = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        return f"{name} differs in {', '.join(keys)}"
    return f"{name} differs: {str(found)[:100]} and not {str(expected)[:100]}"


def _findings(run: Path) -> Findings:
    from agfsync.store import Run

    with Run.open(run) as opened:
        tables = {table: _digest(opened, table) for table in TABLES}
        notes = {name: _notes(opened, name) for name in ("captions", "questions", "pairs", "evaluation")}
        entered = {receipt.path for receipt in opened._manifest.list_parts()}
        damaged = [str(each) for each in opened.verify()]
    on_disk = {path.relative_to(run).as_posix() for path in run.glob("*/*.parquet")}
    lines = [json.loads(line) for line in (run / "training" / "metrics.jsonl").read_text().splitlines()]
    model = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "model").rglob("*"))
        if path.is_file()
    }
    return {
        **tables,
        **{f"notes of {name}": note for name, note in notes.items()},
        "curve": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "model": model,
        "damaged": damaged,
        "twice": _twice(run),
        "left": sorted(on_disk ^ entered) + [path.name for path in run.rglob("*.tmp")],
    }


def _digest(opened: Any, table: str) -> list[Any]:
    rows = list(opened.rows(table))
    plain = json.dumps(rows, default=lambda value: value.hex())
    return [opened.count(table), len(rows), hashlib.sha256(plain.encode()).hexdigest()]


def _notes(opened: Any, stage: str) -> Any:
    return json.loads(json.dumps(opened.find_finished(stage).notes))


def _twice(run: Path) -> list[str]:
    """Tables of which a row lies twice on the disk, as somebody sees who reads the folder with another program."""
    import pyarrow.parquet as pq

    twice = []
    for table in TABLES:
        keys = Counter(
            key for path in (run / table).glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()
        )
        twice += [table] if any(count > 1 for count in keys.values()) else []
    return twice

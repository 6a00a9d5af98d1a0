"""The run folder's account of what its stages have spent on language models: one small file that anybody can read."""

import json
from collections.abc import Mapping
from pathlib import Path

from agfsync.disk import guarded, write_atomic
from agfsync.errors import StoreError

SPENDING = "spending.json"


def spent(run: Path, stage: str) -> dict[str, float]:
    """What `stage` of the run folder `run` has spent as it was last noted; empty where that is nothing.

    Raises:
        StoreError: the disk fails, or the file isn't what was written.
    """
    return _all(run).get(stage, {})


def note(run: Path, stage: str, spending: Mapping[str, float]) -> None:
    """Note what `stage` has spent in all.

    Raises:
        StoreError: the disk fails, or the file isn't what was written.
    """
    write_atomic(run / SPENDING, json.dumps(_all(run) | {stage: dict(spending)}, indent=1).encode())


def _all(run: Path) -> dict[str, dict[str, float]]:
    path = run / SPENDING
    if not path.exists():
        return {}
    try:
        with guarded(path):
            found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise StoreError(f"{path} isn't what was written: put it back, or delete it to count anew") from failure
    return found

"""The run folder's account of what its stages have spent on language models: one small file that anybody can read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from agfsync.errors import StoreError
from agfsync.files.atomic import guarded, write_atomic

SPENDING = "spending.json"
Amount = Annotated[int | float, Field(ge=0, allow_inf_nan=False)]
SHAPE = TypeAdapter(dict[str, dict[str, Amount]])


def spent(run: Path, stage: str) -> dict[str, float]:
    """What `stage` of the run folder `run` has spent as it was last noted; empty where that is nothing.

    Raises:
        StoreError: the disk fails, or the file isn't what was written.
    """
    return all_(run).get(stage, {})


def note(run: Path, stage: str, spending: Mapping[str, float]) -> None:
    """Note what `stage` has spent in all.

    Raises:
        StoreError: the disk fails, or the file isn't what was written.
    """
    write_atomic(run / SPENDING, json.dumps(all_(run) | {stage: dict(spending)}, indent=1).encode())


def all_(run: Path) -> dict[str, dict[str, float]]:
    """What was noted, by stage, or by `STAGE.JUDGE`.

    Raises:
        StoreError: the disk fails, or the file isn't what was written.
    """
    path = run / SPENDING
    if not path.exists():
        return {}
    try:
        with guarded(path):
            return SHAPE.validate_json(path.read_bytes())
    except ValueError as failure:
        raise StoreError(f"{path} isn't what was written: put it back, or delete it to count anew") from failure

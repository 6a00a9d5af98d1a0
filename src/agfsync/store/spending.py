"""The spending of a run's stages on language models: one small JSON file in the run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from agfsync.errors import StoreError
from agfsync.files.atomic import store_errors, write_atomic

SPENDING = "spending.json"
_Amount = Annotated[int | float, Field(ge=0, allow_inf_nan=False)]
_SHAPE = TypeAdapter(dict[str, dict[str, _Amount]])


def read_spending(run: Path) -> dict[str, dict[str, float]]:
    """Return the spending by stage, or by `STAGE.JUDGE`; a stage without spending is missing.

    Raises:
        StoreError: the disk fails, or the file is damaged.
    """
    path = run / SPENDING
    if not path.exists():
        return {}
    try:
        with store_errors(path):
            return _SHAPE.validate_json(path.read_bytes())
    except ValueError as failure:
        raise StoreError(f"{path} is damaged: put it back, or delete it to start counting from 0") from failure


def note_spending(run: Path, stage: str, spending: Mapping[str, float]) -> None:
    """Write the total spending of `stage`. Raises StoreError as `read_spending` does."""
    write_atomic(run / SPENDING, json.dumps(read_spending(run) | {stage: dict(spending)}, indent=1).encode())

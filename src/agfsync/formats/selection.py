"""Which scorers chose the pairs of a set, carried in its Parquet files' metadata. No format of its own.

Readers that don't know of it see the same columns and rows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.formats import Selector
from agfsync.formats.columns import table_files

KEY = "agfsync.selected_by"
PICTURE_COLUMNS = {"chosen", "jpg_0"}
"""One of which is in every file of pairs that agfsync writes."""


def name_selectors(schema: pa.Schema, selectors: Sequence[Selector] | None) -> pa.Schema:
    """Return `schema` with metadata that names `selectors`; as it is where they aren't known."""
    if selectors is None:
        return schema
    text = json.dumps([asdict(each) for each in selectors])
    return schema.with_metadata({**(schema.metadata or {}), KEY: text})


def read_selectors(path: Path) -> list[Selector] | None:
    """Return all scorers that the Parquet files of pairs at `path`, a file or folder, name; None unless each names
    some: what chose the pairs isn't known then.
    """
    found: dict[tuple[str, str], Selector] = {}
    named = 0
    for file in table_files(path):
        try:
            schema = pq.read_schema(file)
            if PICTURE_COLUMNS.isdisjoint(schema.names):
                continue
            entries = json.loads((schema.metadata or {})[KEY.encode()])
            selectors = [Selector(**entry) for entry in (entries if isinstance(entries, list) else [entries])]
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None
        named += 1
        found |= {(each.name, each.identity): each for each in selectors}
    return list(found.values()) if named else None

"""How a stage ended, and its entry in the manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agfsync.store.integrity import Kept
from agfsync.store.manifest import Manifest

FILES = "files"
"""Under this name a stage's notes hold the files that it made."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a stage ended. `mark` names what it made, as later stages see it; `notes` are its own counts.

    `files` are those that it made beside its tables, by their path in the run folder.
    """

    digest: str
    mark: str
    seconds: float
    units: int
    failures: int
    notes: Mapping[str, Any]
    ended: str
    files: Mapping[str, Kept] = field(default_factory=dict)


def enter(manifest: Manifest, stage: str, end: Finished) -> None:
    """Enter how `stage` ended, in the place of how it did before."""
    files = {path: kept.plain() for path, kept in end.files.items()}
    notes = json.dumps({**end.notes, **({FILES: files} if files else {})})
    row = (stage, end.digest, end.mark, end.seconds, end.units, end.failures, notes, end.ended)
    with manifest.transaction() as db:
        db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def entered(manifest: Manifest, stage: str) -> Finished | None:
    """How `stage` ended, or None when it hasn't."""
    found = manifest.all("SELECT * FROM stages WHERE name = ?", stage)
    if not found:
        return None
    _, digest, mark, seconds, units, failures, noted, ended = found[0]
    notes = json.loads(noted)
    files = {path: Kept(*kept) for path, kept in notes.pop(FILES, {}).items()}
    return Finished(digest, mark, seconds, units, failures, notes, ended, files)

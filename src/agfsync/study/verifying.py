"""The verification of files against their checksums: of a run with its later rounds, or of all runs of a study."""

from collections.abc import Iterator
from pathlib import Path

from agfsync import pipeline
from agfsync.errors import DamagedError
from agfsync.store import RECIPE, STUDY_FILE
from agfsync.study.rounds import list_rounds, locate_runs
from agfsync.study.running import read_study


def verify_runs(path: Path) -> int:
    """Verify the files of the run or study at `path`; return their number, with repeats of those that runs share.

    Raises:
        DamagedError: some files failed verification; they have been quarantined.
    """
    files, faults = 0, []
    for place in _list_study_runs(path) if (path / STUDY_FILE).is_file() else _list_own_runs(path):
        try:
            files += pipeline.verify(place)
        except DamagedError as fault:
            faults.append(str(fault))
    if faults:
        raise DamagedError("; ".join(faults))
    return files


def _list_own_runs(path: Path) -> Iterator[Path]:
    yield path
    yield from (place for place in list_rounds(path)[1:] if place.exists())


def _list_study_runs(path: Path) -> Iterator[Path]:
    study = read_study(path)
    bases = [study.locate_base(path, seed) for seed in study.varied[1]]
    places = [*bases, *(place for arm in study.resolve_arms() for place in locate_runs(arm, path))]
    yield from (place for place in dict.fromkeys(places) if (place / RECIPE).is_file())

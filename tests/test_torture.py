"""A smaller version of each attack of `make torture`, all in one process that has imported everything once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
ROWS = {
    "faults": ["disk full from a call on", "I/O error in a call"],
    "kills": ["SIGKILL over all stages"],
    "flips": ["bit flipped in a part", "bit flipped in run.db", "bit flipped in a model or report"],
    "holders": ["two processes on one run folder"],
    "again": ["finished run typed again"],
    "resume": ["resume with the candidates finished"],
}


def test_nothing_is_lost(tmp_path: Path) -> None:
    rows = attacked(tmp_path / "rows.json")
    for attack, told in ROWS.items():
        if attack == "faults" and "disk faults" in rows:  # there is no C compiler
            continue
        for what in told:
            assert rows[what]["tried"] > 0 and rows[what]["lost"] == 0, rows[what]


def attacked(told: Path) -> dict[str, Any]:
    """What the attacks have to tell, by what was attacked."""
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    arguments = [sys.executable, "-m", "tests.torture", "--small", "--jobs", "1", "--json", str(told)]
    done = subprocess.run(
        arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert told.exists(), done.stderr[-3000:]
    return {row["what"]: row for row in json.loads(told.read_text())}

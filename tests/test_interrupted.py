"""A run that is killed again and again ends with the pairs of one that is left alone."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from agfsync.config import dump

HERE = Path(__file__).parent


def _interrupt() -> Any:
    """The script beside this test."""
    spec = importlib.util.spec_from_file_location("interrupt", HERE / "interrupt.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_killed_at_twenty_random_moments_a_run_ends_with_the_same_pairs(tmp_path: Path, make_recipe: Any) -> None:
    file = tmp_path / "quick.yaml"
    file.write_text(dump(make_recipe(captions={"count": 60}, scores={"batch": 3})))
    source = os.pathsep.join([str(HERE / "plugins"), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    outcome = _interrupt().interrupt(str(file), tmp_path, kills=20, environment={**os.environ, "PYTHONPATH": source})
    assert outcome.kills == 20
    assert len(outcome.expected) > 50
    assert all(found == outcome.expected for found in outcome.found)

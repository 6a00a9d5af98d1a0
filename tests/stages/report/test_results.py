"""docs/results.py, which writes docs/shapes/results.md from run folders."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "docs" / "results.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_judge_has_a_row_with_its_intervals_and_every_run_its_verdict(made_up: Any, tmp_path: Path) -> None:
    context, results = made_up(), script()
    results.main(tmp_path / "docs", [context.run.path])
    text = (tmp_path / "docs" / "results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 0 |")]
    assert [row.split(" | ")[1:4] for row in rows] == [
        ["oracle", "independent", "40"],
        *([judge, "selected on", "40"] for judge in ("vqa", "clip", "aesthetic")),
    ]
    number = r"[+−]?\d+\.\d+"
    wins = r"\d+% \| \d+% to \d+% \| \d+% \|"
    assert all(re.search(rf"\| {number} \| {number} to {number} \| (< )?[\d.]+ \| {wins}$", row) for row in rows)
    assert re.search(r"- Seed 0: \*\*Better: oracle rose by [\d.]+ points\.\*\* Mean difference over 40", text)
    assert results.find_processor() in text
    kept = json.loads((tmp_path / "docs" / "evaluation-0.json").read_text())
    assert {"judges", "categories", "element_types", "contrasts"} <= kept.keys()

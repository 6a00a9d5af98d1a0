"""`agfsync study`: the commands on a study's folder."""

from pathlib import Path
from typing import Literal

from agfsync.study.running import read_study
from agfsync.study.status import read_arm_status
from agfsync.study.table import format_latex, format_markdown, make_cells
from agfsync.study.values import gather_results


def format_study_status(path: Path) -> str:
    """Return a line for each arm and seed with its state and its run folder."""
    statuses = [read_arm_status(arm, path) for arm in read_study(path).resolve_arms()]
    width = max(len(each.arm.name) for each in statuses)
    return "\n".join(
        f"{each.arm.name:<{width}} seed {each.arm.seed:<4} {': '.join(filter(None, (each.state, each.detail)))}"
        f"  {each.arm.locate(path)}"
        for each in statuses
    )


def format_study_table(path: Path, format_: Literal["markdown", "latex"]) -> str:
    """Return the table of the study at `path`, with the arms that are done so far."""
    study = read_study(path)
    cells = make_cells(gather_results(path, study))
    return format_latex(cells, study) if format_ == "latex" else format_markdown(cells, study)

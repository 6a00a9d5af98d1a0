"""The states of a study's arms, read from their run folders."""

from dataclasses import dataclass
from pathlib import Path

from agfsync import pipeline
from agfsync.store import RECIPE, Run
from agfsync.study.rounds import locate_runs
from agfsync.study.settings import Arm

SETUP_STAGES = ("captions", "questions", "candidates", "scores", "pairs", "training")
"""The stages at which an arm may be before anybody has run it."""


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """The state of an arm under one seed: done, failed, under way or to do, with the stage or the reason."""

    arm: Arm
    state: str
    detail: str = ""


def locate_failure(arm: Arm, path: Path) -> Path:
    """Return the path of the file with the reason of an arm's failure."""
    place = arm.locate(path)
    return place.with_name(f"{place.name}.failed")


def read_arm_status(arm: Arm, path: Path) -> ArmStatus:
    """Return the state of an arm, even while another process runs it."""
    place, failure = arm.locate(path), locate_failure(arm, path)
    if failure.is_file():
        return ArmStatus(arm, "failed", failure.read_text(encoding="utf-8"))
    if not (place / RECIPE).is_file():
        return ArmStatus(arm, "to do")
    if arm.trains_nothing:
        with Run.open(place) as run:
            return ArmStatus(arm, "done" if run.count("evaluation_scores") else "to do")
    for number, folder in enumerate(locate_runs(arm, path)):
        states = pipeline.read_status(folder) if (folder / RECIPE).is_file() else []
        undone = next((stage for stage in states if stage.state != "done"), None)
        if states and (undone is None or undone.name == "report"):
            continue
        begun = number or (undone and (undone.name not in SETUP_STAGES or undone.state == "under way"))
        detail = [f"round {number + 1}"] * bool(number) + ([f"at {undone.name}"] if undone else [])
        return ArmStatus(arm, "under way" if begun else "to do", " ".join(detail))
    return ArmStatus(arm, "done")

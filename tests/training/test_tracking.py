import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking

from agfsync.engine.packages import require_trackers
from agfsync.errors import RecipeError
from agfsync.training.tracking import Session, open_trackers

CALLS: list[Any] = []


class Recorder:
    """Stands in for a tracker whose package isn't installed where tests run."""

    def __init__(self, project: str, **options: Any) -> None:
        CALLS.append(("made", project, options))

    def start(self) -> None:
        CALLS.append("started")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        CALLS.append(values)

    def log(self, values: dict[str, float], step: int) -> None:
        CALLS.append((step, values))

    def finish(self) -> None:
        CALLS.append("finished")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session("run", "abc", tmp_path, {"beta": 2000.0})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: name)
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Recorder)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hands_over_the_settings_and_each_step(recorder: None, session: Session, name: str) -> None:
    with open_trackers([name], session, done=0) as log:
        log({"step": 1, "loss": 0.5})
    (_, project, options), *rest = CALLS
    assert project == "run" and "abc" in options.values() and options["resume"] == "allow"
    assert rest == ["started", {"beta": 2000.0}, (1, {"loss": 0.5}), "finished"]


def test_goes_on_without_telling_the_settings_again(recorder: None, session: Session) -> None:
    with pytest.raises(KeyboardInterrupt), open_trackers(["tensorboard"], session, done=4) as log:
        log({"step": 5, "loss": 0.5})
        raise KeyboardInterrupt
    (_, _, options), *rest = CALLS
    assert options["purge_step"] == 5
    assert rest == ["started", (5, {"loss": 0.5}), "finished"]


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match="training.trackers wandb needs the package wandb: pip install wandb"
    ) as caught:
        require_trackers(["wandb"])
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_unless_asked_for() -> None:
    code = (
        "import sys, pathlib, agfsync.training.tracking as t\n"
        "with t.open_trackers([], t.Session('a', 'b', pathlib.Path('.'), {}), 0) as log: log({'step': 1})\n"
        "assert not {'accelerate', 'tensorboard', 'wandb', 'trackio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensorboard_has_each_step_once(session: Session) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        with open_trackers(["tensorboard"], session, done) as log:
            for step in steps:
                log({"step": step, "loss": 1 / step})
    events = EventAccumulator(str(session.folder / "abc" / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]

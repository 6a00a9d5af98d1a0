"""Experiment trackers in addition to the log: TensorBoard, Weights & Biases, Trackio, through accelerate.

A tracker's package is imported only if the recipe names it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agfsync.engine.packages import require_trackers


@dataclass(frozen=True, slots=True)
class Session:
    """The description of a training that its trackers get before the first step.

    `key` identifies the training, so that a resumed one continues the same curves. `settings` are plain values.
    """

    project: str
    key: str
    folder: Path
    settings: Mapping[str, Any]


Log = Callable[[Mapping[str, float]], None]


@contextmanager
def open_trackers(names: Sequence[str], session: Session, done: int) -> Iterator[Log]:
    """Start the trackers `names` and yield a function that logs the figures of a step to them.

    `done` is the number of steps that are already logged.

    Raises:
        RecipeError: a tracker's package is not installed.
    """
    require_trackers(names)
    with ExitStack() as stack:
        trackers = [_start_tracker(name, session, done) for name in names]
        for tracker in trackers:
            stack.callback(tracker.finish)

        def log(line: Mapping[str, float]) -> None:
            figures = {name: value for name, value in line.items() if name != "step"}
            for tracker in trackers:
                tracker.log(figures, step=int(line["step"]))

        yield log


def _start_tracker(name: str, session: Session, done: int) -> Any:
    """Start and return the tracker `name`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker: Any = LOGGER_TYPE_TO_CLASS[name](session.project, **_make_options(name, session, done))
    tracker.start()
    if done == 0:
        tracker.store_init_configuration(dict(session.settings))
    return tracker


def _make_options(name: str, session: Session, done: int) -> dict[str, Any]:
    """Return the arguments with which a tracker resumes; steps after the last checkpoint are logged again."""
    if name == "tensorboard":
        return {"logging_dir": session.folder / session.key, "purge_step": done + 1}
    if name == "wandb":
        return {"id": session.key, "resume": "allow", "dir": str(session.folder)}
    return {"name": session.key, "resume": "allow"}

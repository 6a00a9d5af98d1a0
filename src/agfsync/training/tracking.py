"""Trackers of experiments beside the log: TensorBoard, Weights & Biases, Trackio, through accelerate.

Nothing of theirs is imported unless the recipe asks for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agfsync.engine.packages import require_trackers


@dataclass(frozen=True, slots=True)
class Session:
    """What a tracker is told of a training before its first step.

    `key` names it: a training that goes on, goes on in the same place. `settings` are plain values.
    """

    project: str
    key: str
    folder: Path
    settings: Mapping[str, Any]


Log = Callable[[Mapping[str, float]], None]


@contextmanager
def tracked(names: Sequence[str], session: Session, done: int) -> Iterator[Log]:
    """Gives what hands each step's figures to the trackers `names`; `done` steps have been handed over before.

    Raises:
        RecipeError: a tracker's package isn't there.
    """
    require_trackers(names)
    with ExitStack() as stack:
        trackers = [_open(name, session, done) for name in names]
        for tracker in trackers:
            stack.callback(tracker.finish)

        def log(line: Mapping[str, float]) -> None:
            figures = {name: value for name, value in line.items() if name != "step"}
            for tracker in trackers:
                tracker.log(figures, step=int(line["step"]))

        yield log


def _open(name: str, session: Session, done: int) -> Any:
    """The tracker `name`, begun."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker: Any = LOGGER_TYPE_TO_CLASS[name](session.project, **_options(name, session, done))
    tracker.start()
    if done == 0:
        tracker.store_init_configuration(dict(session.settings))
    return tracker


def _options(name: str, session: Session, done: int) -> dict[str, Any]:
    """How each goes on where it was: the steps after the last checkpoint are made, and so told of, once more."""
    if name == "tensorboard":
        return {"logging_dir": session.folder / session.key, "purge_step": done + 1}
    if name == "wandb":
        return {"id": session.key, "resume": "allow", "dir": str(session.folder)}
    return {"name": session.key, "resume": "allow"}

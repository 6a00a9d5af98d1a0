"""What children have made, and how much of it was safe when they died: counted in memory that they share."""

import mmap
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("request", "image", "score", "step")
STAGES = ("captions", "questions", "candidates", "scores", "pairs", "training", "evaluation", "report")
TABLES = {
    "captions": "request",
    "questions": "request",
    "candidates": "image",
    "evaluation_images": "image",
    "scores": "score",
    "evaluation_scores": "score",
}
"""What the rows of a table are made of."""


@dataclass(frozen=True)
class Reading:
    """Of one child: what it `made` and what of that is `safe`, by kind; the stage that it is at; seconds."""

    made: Mapping[str, int]
    safe: Mapping[str, int]
    stage: str
    since_safe: float

    @property
    def lost(self) -> dict[str, int]:
        """What the next command has to make again."""
        return {kind: self.made[kind] - self.safe[kind] for kind in KINDS if self.made[kind] > self.safe[kind]}


class Odometer:
    """Installed once, in the parent; reset before each child."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins anew, in memory of its own: beside it others are at work."""
        self._memory = mmap.mmap(-1, 8 * (2 * len(KINDS) + 2 + len(STAGES)))
        self._put(2 * len(KINDS) + 1, time.monotonic())

    def read(self) -> Reading:
        made = {kind: int(self._get(place)) for place, kind in enumerate(KINDS)}
        safe = {kind: int(self._get(len(KINDS) + place)) for place, kind in enumerate(KINDS)}
        stage = STAGES[int(self._get(2 * len(KINDS)))]
        return Reading(made, safe, stage, time.monotonic() - self._get(2 * len(KINDS) + 1))

    def entered(self, stage: str) -> float:
        """When the child came to a stage, by the monotonic clock; 0 if it hasn't."""
        return self._get(2 * len(KINDS) + 2 + STAGES.index(stage))

    def spent(self, end: float) -> dict[str, float]:
        """The seconds that the child was at each stage, the last one up to `end`."""
        moments = [*(self.entered(stage) for stage in STAGES), end]
        return {stage: after - before for stage, before, after in zip(STAGES, moments[:-1], moments[1:], strict=True)}

    def install(self) -> None:
        """Counts at the places where models work and where what they made becomes safe."""
        import doubles

        from agfsync import pipeline
        from agfsync.models.latent_diffusion import LatentDiffusion
        from agfsync.store import Run
        from agfsync.training import loop
        from agfsync.training.checkpoints import Checkpoints

        self._before(doubles.Writer, "captions", lambda *_: self._add("request", 1))
        self._before(doubles.Writer, "questions", lambda *_: self._add("request", 1))
        self._before(LatentDiffusion, "draw", lambda _, prompts, *__: self._add("image", len(prompts)))
        self._before(doubles.Brightness, "score", lambda _, items: self._add("score", len(items)))
        self._before(doubles.Asking, "score", lambda _, items: self._add("score", len(items)))
        self._before(loop, "_update", lambda *_: self._add("step", 1))
        self._before(pipeline, "_bring_up", lambda stage, *_: self._enter(stage.name))
        self._after(Run, "enter", self._committed)
        self._after(Run, "finish", lambda *_: self._now())
        self._after(Checkpoints, "save", lambda *_: self._saved())

    def _committed(self, _: Any, table: str, units: Mapping[str, int], *__: Any) -> None:
        kind = TABLES.get(table)
        if kind is not None:
            # A request for captions brings many of them, one for questions a caption's.
            made = {"captions": 1, "questions": 2 * len(units)}.get(table, sum(units.values()))
            self._add(kind, made, safe=True)
        self._now()

    def _saved(self) -> None:
        place = KINDS.index("step")
        self._put(len(KINDS) + place, self._get(place))
        self._now()

    def _enter(self, stage: str) -> None:
        self._put(2 * len(KINDS), STAGES.index(stage))
        self._put(2 * len(KINDS) + 2 + STAGES.index(stage), time.monotonic())

    def _now(self) -> None:
        self._put(2 * len(KINDS) + 1, time.monotonic())

    def _add(self, kind: str, count: int, *, safe: bool = False) -> None:
        place = KINDS.index(kind) + len(KINDS) * safe
        self._put(place, self._get(place) + count)

    def _before(self, owner: Any, name: str, count: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            count(*arguments)
            return original(*arguments, **named)

        setattr(owner, name, counted)

    def _after(self, owner: Any, name: str, count: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            count(*arguments)
            return result

        setattr(owner, name, counted)

    def _get(self, place: int) -> float:
        (value,) = struct.unpack_from("d", self._memory, 8 * place)
        return float(value)

    def _put(self, place: int, value: float) -> None:
        struct.pack_into("d", self._memory, 8 * place, value)
